// Httpclient gets a URL with the TLS library of your choice and tells what was
// negotiated.
//
//	httpclient [-provider openssl] [-ca ca.pem] URL
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	ca := flag.String("ca", "", "file with the CAs to trust; the system's without it")
	provider := flag.String("provider", "std", "TLS library")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: httpclient [flags] URL")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *ca, *provider); err != nil {
		log.Fatal(err)
	}
}

func run(url, ca, name string) error {
	provider, err := providers.Lookup(name)
	if err != nil {
		return err
	}
	config := new(tlsapi.ClientConfig) // the name to verify is the URL's
	if ca != "" {
		if config.RootCAs, err = tlsapi.CertPoolFromFiles(ca); err != nil {
			return err
		}
	}
	transport := &httptls.Transport{Provider: provider, Config: config}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}

	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if state := response.TLS; state != nil {
		fmt.Fprintf(os.Stderr, "%s, %s, %s, %s\n", response.Proto, tls.VersionName(state.Version),
			tlsapi.CipherSuiteName(state.CipherSuite), tlsapi.CurveName(state.CurveID))
	}
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
