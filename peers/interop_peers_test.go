package peers

// interopPeers are all rows of the table.
var interopPeers = []interopPeer{
	{name: "OpenSSL s_client", programs: []string{"openssl"}, version: []string{"openssl", "version"}, client: opensslClient, quick: true},
	{name: "OpenSSL s_time", programs: []string{"openssl"}, version: []string{"openssl", "version"}, client: opensslTimer,
		cannot: map[check]string{alpn: "`openssl s_time` has no option for ALPN."}},
	{name: "gnutls-cli", programs: []string{"gnutls-cli"}, version: []string{"gnutls-cli", "--version"}, client: gnutlsClient, quick: true},
	{name: "NSS tstclnt", programs: []string{"tstclnt", "certutil", "pk12util", "openssl"}, version: nssVersion, client: nssClient,
		cannot: map[check]string{alpn: noNSSClientALPN}},
	{name: "NSS strsclnt", programs: []string{"strsclnt", "certutil", "pk12util", "openssl"}, version: nssVersion, client: nssStressClient,
		cannot: map[check]string{alpn: noNSSClientALPN}},
	{name: "curl (HTTP/1.1)", programs: []string{"curl"}, version: []string{"curl", "--version"}, client: curlClient("--http1.1"), quick: true},
	{name: "curl (HTTP/2)", programs: []string{"curl"}, version: []string{"curl", "--version"}, protocol: "h2", client: curlClient("--http2"), quick: true},
	{name: "nginx proxy_pass", programs: []string{"nginx"}, version: []string{"nginx", "-v"}, client: nginxClient,
		cannot: map[check]string{alpn: "nginx sends no ALPN extension to the servers that it proxies to."}},
	{name: "HAProxy server line", programs: []string{"haproxy"}, version: []string{"haproxy", "-v"}, client: haproxyClient},
	{name: "stunnel", programs: []string{"stunnel"}, version: []string{"stunnel", "-version"}, client: stunnelClient, cannot: map[check]string{alpn: noStunnelALPN}},
	{name: "Java JSSE", programs: []string{"java", "javac", "openssl"}, version: []string{"java", "-version"}, client: javaClient},
	{name: "Node.js", programs: []string{"node"}, version: []string{"node", "--version"}, client: nodeClient},
	{name: "Go crypto/tls", version: []string{"go", "version"}, client: goClient, quick: true},

	{name: "OpenSSL s_server", programs: []string{"openssl"}, version: []string{"openssl", "version"}, server: opensslServer, quick: true},
	{name: "gnutls-serv", programs: []string{"gnutls-serv"}, version: []string{"gnutls-serv", "--version"}, server: gnutlsServer, quick: true},
	{name: "NSS selfserv", programs: []string{"selfserv", "certutil", "pk12util", "openssl"}, version: nssVersion, server: nssServer},
	{name: "nginx", programs: []string{"nginx"}, version: []string{"nginx", "-v"}, server: nginxServer},
	{name: "HAProxy", programs: []string{"haproxy"}, version: []string{"haproxy", "-v"}, server: haproxyServer},
	{name: "stunnel", programs: []string{"stunnel"}, version: []string{"stunnel", "-version"}, server: stunnelServer, cannot: map[check]string{alpn: noStunnelALPN}},
	{name: "Java JSSE", programs: []string{"java", "javac", "openssl"}, version: []string{"java", "-version"}, server: javaServer},
	{name: "Node.js", programs: []string{"node"}, version: []string{"node", "--version"}, server: nodeServer},
	{name: "Go crypto/tls", version: []string{"go", "version"}, server: goServer, quick: true},
}

// The programs of NSS do not tell their version; their package does.
var nssVersion = []string{"dpkg-query", "-W", "-f", "${source:Upstream-Version}", "libnss3-tools"}

const (
	noNSSClientALPN = "NSS's `tstclnt` and `strsclnt` have no option for ALPN."
	noStunnelALPN   = "stunnel 5.68 has no option for ALPN."
)

// exceptions are cells that cannot be with some providers, versions or peers: an
// empty field means all.
var exceptions = []struct {
	provider, peer, role, version string
	check                         check
	reason                        string
}{
	{peer: "curl (HTTP/1.1)", version: "1.2", check: resumed, reason: noCurlTickets},
	{peer: "curl (HTTP/2)", version: "1.2", check: resumed, reason: noCurlTickets},
	{peer: "curl (HTTP/2)", version: "1.3", check: resumed,
		reason: "curl 7.88 with OpenSSL offers no session after an HTTP/2 connection that ended with GOAWAY: its next ClientHello has no pre_shared_key extension."},
	{provider: "std", peer: "Java JSSE", role: "client", version: "1.2", check: resumed,
		reason: "JSSE drops TLS 1.2 tickets with a lifetime hint of zero (\"unspecified\", RFC 5077), which is what `crypto/tls` sends."},
	{provider: "s2n", peer: "Java JSSE", role: "client", version: "1.2", check: resumed,
		reason: "JSSE drops TLS 1.2 tickets with a lifetime hint above a week. s2n-tls takes the hint from the lifetime of its ticket keys, which has to be decades for keys that the program rotates."},
	{provider: "boringssl", peer: "gnutls-cli", version: "1.3", check: resumed,
		reason: "`gnutls-cli --resume` waits for a ticket, if at all, before it sends anything; BoringSSL's servers send their TLS 1.3 tickets together with their first data."},
}

const noCurlTickets = "curl with OpenSSL does not offer session tickets in TLS 1.2 (`SSL_OP_NO_TICKET`), and Polytls's servers keep no sessions by id."
