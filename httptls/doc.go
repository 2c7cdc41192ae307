// Package httptls puts any provider under net/http, and gives the helpers that
// programs know from crypto/tls: Dial, Listen, NewListener.
//
//	srv := &httptls.Server{Provider: boringssl.Provider}
//	srv.Handler = mux
//	err := srv.ListenAndServeTLS("server.pem", "server-key.pem")
//
//	client := &http.Client{Transport: &httptls.Transport{
//		Provider: openssl.Provider,
//		Config:   &tlsapi.ClientConfig{RootCAs: roots},
//	}}
//
// Both speak HTTP/1.1 and HTTP/2. net/http itself gives HTTP/2 to *tls.Conn
// only (up to Go 1.26), and leaves its own TLS in place for HTTPS through a
// proxy whatever DialTLSContext says; Server and Transport close these gaps.
package httptls
