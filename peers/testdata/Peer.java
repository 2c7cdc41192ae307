import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** A TLS client or server of JSSE: Peer client|server PORT VERSION CHECK CA PKCS12 PASSWORD. */
public final class Peer {
  private static final String REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  private static final String ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\nhello over TLS\n";

  private final int port;
  private final String version;
  private final String check;
  private final SSLContext context;

  private Peer(String role, int port, String version, String check, String ca, String identity, char[] password) throws Exception {
    this.port = port;
    this.version = version;
    this.check = check;
    KeyStore trusted = KeyStore.getInstance("PKCS12");
    trusted.load(null, null);
    try (InputStream in = new FileInputStream(ca)) {
      trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
    }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    KeyManagerFactory keys = null;
    if (role.equals("server") || check.equals("mTLS")) {
      KeyStore own = KeyStore.getInstance("PKCS12");
      try (InputStream in = new FileInputStream(identity)) {
        own.load(in, password);
      }
      keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      keys.init(own, password);
    }
    context = SSLContext.getInstance("TLS");
    context.init(keys == null ? null : keys.getKeyManagers(), trust.getTrustManagers(), null);
  }

  public static void main(String[] args) throws Exception {
    Peer peer = new Peer(args[0], Integer.parseInt(args[1]), args[2], args[3], args[4], args[5], args[6].toCharArray());
    if (args[0].equals("server")) {
      peer.serve();
      return;
    }
    for (int i = peer.check.equals("resumed") ? 2 : 1; i > 0; i--) {
      String answer = peer.connect();
      if (i == 1) {
        System.out.print(answer);
      }
    }
  }

  private SSLParameters parameters(SSLParameters p) {
    p.setProtocols(new String[] {version});
    if (check.equals("ALPN")) {
      p.setApplicationProtocols(new String[] {"http/1.1"});
    }
    return p;
  }

  private String connect() throws IOException {
    // The name is the one to verify, and with the port the key of the session.
    try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(
        new java.net.Socket("127.0.0.1", port), "localhost", port, true)) {
      SSLParameters p = parameters(socket.getSSLParameters());
      p.setEndpointIdentificationAlgorithm("HTTPS");
      socket.setSSLParameters(p);
      socket.getOutputStream().write(REQUEST.getBytes(StandardCharsets.US_ASCII));
      socket.getOutputStream().flush();
      return new String(socket.getInputStream().readAllBytes(), StandardCharsets.US_ASCII);
    }
  }

  private void serve() throws IOException {
    try (SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(
        port, 16, InetAddress.getByName("127.0.0.1"))) {
      SSLParameters p = parameters(listener.getSSLParameters());
      p.setNeedClientAuth(check.equals("mTLS"));
      listener.setSSLParameters(p);
      while (true) {
        try (SSLSocket socket = (SSLSocket) listener.accept()) {
          StringBuilder request = new StringBuilder();
          byte[] buffer = new byte[4096];
          int n;
          while (request.indexOf("\r\n\r\n") < 0 && (n = socket.getInputStream().read(buffer)) >= 0) {
            request.append(new String(buffer, 0, n, StandardCharsets.US_ASCII));
          }
          socket.getOutputStream().write(ANSWER.getBytes(StandardCharsets.US_ASCII));
          socket.getOutputStream().flush();
        } catch (IOException e) {
          System.err.println(e);
        }
      }
    }
  }
}
