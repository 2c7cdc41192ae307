// Choose connects with the first TLS library that can do what is asked of it: an
// option is honoured, or refused before anything is sent, so a program can ask.
//
//	choose [-ca ca.pem] [-curves X25519MLKEM768:X25519] [-second-key-share] [-order boringssl,openssl,s2n,std] HOST:PORT
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

func main() {
	ca := flag.String("ca", "", "file with the CAs to trust; the system's without it")
	curves := flag.String("curves", "", "groups for the key exchange, in this order")
	second := flag.Bool("second-key-share", false, "send key shares of a post-quantum and of a classical group")
	order := flag.String("order", "boringssl,openssl,s2n,std", "TLS libraries, the one to try first first")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: choose [flags] HOST:PORT")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *ca, *curves, *second, strings.Split(*order, ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(addr, ca, curves string, second bool, order []string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	config := &tlsapi.ClientConfig{ServerName: host}
	if ca != "" {
		if config.RootCAs, err = tlsapi.CertPoolFromFiles(ca); err != nil {
			return err
		}
	}
	if curves != "" {
		if config.Curves, err = tlsapi.ParseCurves(curves); err != nil {
			return err
		}
	}
	if second {
		config.SecondKeyShare = tlsapi.SecondKeyShareOn
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, name := range order {
		provider, err := providers.Lookup(name)
		if err != nil {
			return err
		}
		conn, err := httptls.DialContext(ctx, "tcp", addr, provider, config)
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, tlsapi.KindUnavailable) {
			// It names provider, option and reason.
			fmt.Println("not", name+":", err)
			continue
		}
		if err != nil {
			return err // of the connection: another library would not help
		}
		info := conn.Info()
		fmt.Printf("%s %s: %s, %s, key shares %s\n", info.Provider, info.LibraryVersion,
			tlsapi.VersionName(info.Version), tlsapi.CurveName(info.Group), shares(info.KeyShares))
		return conn.Close()
	}
	return errors.New("no provider can do that")
}

func shares(groups []tlsapi.CurveID) string {
	var names []string
	for _, group := range groups {
		names = append(names, tlsapi.CurveName(group))
	}
	return strings.Join(names, " and ")
}
