package engine

import "fmt"

// String names the connection by its ends. Package fmt would print what its
// buffers hold, and read what others write.
func (c *Conn) String() string {
	return fmt.Sprintf("%s connection from %v to %v", c.options.Provider, c.LocalAddr(), c.RemoteAddr())
}

// Format makes every verb print String.
func (c *Conn) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }
