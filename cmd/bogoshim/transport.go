package main

import (
	"bufio"
	"encoding/binary"
	"net"
	"time"
)

// dial connects to the runner. The second connection is the same socket once
// more: the provider closes the first as soon as a handshake has failed, and
// with bytes of the peer unread that resets the connection, which can overtake
// the alert. settle ends the socket after the alert has gone out.
func (t *test) dial() (transport net.Conn, socket *net.TCPConn, err error) {
	host := "127.0.0.1"
	if t.ipv6 {
		host = "::1"
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(host, t.port))
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, t.shimID)); err != nil {
		conn.Close()
		return nil, nil, err
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	defer file.Close()
	again, err := net.FileConn(file)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, again.(*net.TCPConn), nil
}

// settle ends a socket in order: what was sent arrives, and the peer's end is
// waited for.
func settle(socket *net.TCPConn) {
	defer socket.Close()
	if socket.CloseWrite() != nil {
		return
	}
	if socket.SetReadDeadline(time.Now().Add(5*time.Second)) != nil {
		return
	}
	var buf [1024]byte
	for {
		if _, err := socket.Read(buf[:]); err != nil {
			return
		}
	}
}

// byteAtATime is a transport that gives one byte per Read. It reads more from the
// socket at once: the tests that split records make thousands of them.
type byteAtATime struct {
	net.Conn
	received *bufio.Reader
}

func newByteAtATime(conn net.Conn) byteAtATime { return byteAtATime{conn, bufio.NewReader(conn)} }

func (b byteAtATime) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return b.received.Read(p)
}
