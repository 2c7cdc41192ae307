package main

// theme is a section of the document: its rows are features, its options are
// fields of the configurations.
type theme struct {
	title, intro string
	rows         []row
	options      []string
	// types have their own documentation and fields.
	types []string
}

// row is a feature without its side ("client.", "server.").
type row struct {
	feature, label string
}

// themes holds every feature and every field once; a test says which is
// missing.
var themes = []theme{
	{
		title: "Verifying the peer",
		intro: "The chain is verified by the provider's library, the names by Polytls, with the same outcome everywhere. RSA keys under 2048 bits and signatures with SHA-1 are refused.",
		rows: []row{
			{"server-name", "`ServerName`"},
			{"alternative-name", "`AlternativeName`"},
			{"insecure-skip-verify", "`InsecureSkipVerify`"},
			{"skip-hostname", "`SkipHostnameVerification`"},
			{"root-cas", "`RootCAs`"},
			{"client-auth", "`ClientAuth`"},
			{"client-cas", "`ClientCAs`"},
			{"revocation-lists", "`RevocationLists`"},
			{"verify-connection", "`VerifyConnection`"},
		},
		options: []string{"ServerName", "AlternativeName", "InsecureSkipVerify", "SkipHostnameVerification", "RootCAs",
			"ClientAuth", "ClientCAs", "RevocationLists", "VerifyConnection"},
	},
	{
		title: "Certificates",
		rows: []row{
			{"certificate", "`Certificate`"},
			{"certificates", "`Certificates`"},
			{"certificates-by-name", "`Certificates`, several"},
			{"get-client-certificate", "`GetClientCertificate`"},
			{"external-signer", "a private key that is a `crypto.Signer`"},
			{"get-certificate", "`GetCertificate`"},
			{"get-config-for-client", "`GetConfigForClient`"},
			{"ocsp-stapling", "stapled OCSP responses"},
		},
		options: []string{"Certificate", "GetClientCertificate", "Certificates", "GetCertificate", "GetConfigForClient"},
	},
	{
		title: "Versions, cipher suites, groups, signatures",
		rows: []row{
			{"versions", "`MinVersion`, `MaxVersion`"},
			{"cipher-suites", "`CipherSuites`"},
			{"curves", "`Curves`"},
			{"second-key-share-on", "`SecondKeyShare` on"},
			{"second-key-share-off", "`SecondKeyShare` off"},
			{"signature-schemes", "`SignatureSchemes`"},
		},
		options: []string{"MinVersion, MaxVersion", "CipherSuites", "Curves", "SecondKeyShare", "SignatureSchemes"},
	},
	{
		title: "Security policies",
		rows: []row{
			{"policy-preset", "`SecurityPolicy` intermediate, modern"},
			{"policy-named", "`SecurityPolicy`, s2n's names"},
		},
		options: []string{"SecurityPolicy"},
	},
	{
		title: "Application protocols",
		rows: []row{
			{"alpn", "`ALPN`"},
			{"alpn-strict", "`ALPNStrict`"},
		},
		options: []string{"ALPN", "ALPNStrict"},
	},
	{
		title: "Pre-shared keys",
		rows: []row{
			{"psk-external", "`PSKs` of kind external"},
			{"psk-imported", "`PSKs` of kind imported"},
			{"psk-tls12", "`PSKs` of kind tls12"},
			{"require-psk", "`RequirePSK`"},
		},
		options: []string{"PSKs", "RequirePSK"},
		types:   []string{"PSK"},
	},
	{
		title: "Sessions",
		rows: []row{
			{"session-cache", "`SessionCache`"},
			{"session-tickets", "session tickets, on by default"},
			{"session-ticket-keys", "`SessionTicketKeys`"},
			{"session-tickets-off", "`SessionTicketsDisabled`"},
		},
		options: []string{"SessionCache", "SessionTicketKeys", "SessionTicketsDisabled"},
	},
	{
		title: "Time and resources",
		rows: []row{
			{"handshake-timeout", "`HandshakeTimeout`"},
			{"max-blinding-delay", "`MaxBlindingDelay`"},
			{"config-cache-size", "`ConfigCacheSize`"},
		},
		options: []string{"HandshakeTimeout", "MaxBlindingDelay", "ConfigCacheSize"},
	},
	{
		title: "Watching connections",
		rows: []row{
			{"handshake-hooks", "`HandshakeComplete`, `HandshakeFailed`"},
			{"key-log", "`KeyLogWriter`"},
		},
		options: []string{"HandshakeComplete", "HandshakeFailed", "KeyLogWriter"},
	},
	{
		title: "What connections can do",
		intro: "These are no options: methods of `Conn`, and what the peer of a failed handshake gets to see.",
		rows: []row{
			{"close-write", "`CloseWrite`"},
			{"exporter", "`ExportKeyingMaterial`"},
			{"alerts", "fatal alerts of failed handshakes"},
		},
	},
}
