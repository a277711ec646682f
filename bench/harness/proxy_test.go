package harness

import (
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What goes through the proxy arrives whole, in order, and not before the delay, each way; and ends end.
func TestProxy(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	const delay = 20 * time.Millisecond
	proxy, err := StartProxy("postgres://"+server.Addr().String()+"/db", delay)
	require.NoError(t, err)
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	assert.Equal(t, "/db", u.Path)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer conn.Close()
	began := time.Now()
	_, err = conn.Write([]byte("hello, "))
	require.NoError(t, err)
	_, err = conn.Write([]byte("world"))
	require.NoError(t, err)
	answer := make([]byte, 12)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(began), 2*delay)
	assert.Equal(t, "hello, world", string(answer))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	_, err = conn.Read(answer)
	assert.ErrorIs(t, err, io.EOF)
}
