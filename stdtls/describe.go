package stdtls

import "fmt"

// String names the connection by its ends. Package fmt would print the secrets
// that crypto/tls keeps in it.
func (c *conn) String() string {
	return fmt.Sprintf("%s connection from %v to %v", providerName, c.LocalAddr(), c.RemoteAddr())
}

// Format makes every verb print String.
func (c *conn) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }
