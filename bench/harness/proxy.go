package harness

import (
	"net"
	"net/url"
	"time"
)

// Proxy passes connections on to a server, and delays what goes either way, as a network does.
type Proxy struct {
	URL      string // of the database, by way of the proxy
	listener net.Listener
}

// StartProxy starts one for the server and the database that a URL names.
func StartProxy(server string, delay time.Duration) (*Proxy, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	network, address := "tcp", u.Host
	query := u.Query()
	if dir := query.Get("host"); dir != "" {
		network, address = "unix", dir+"/.s.PGSQL."+query.Get("port")
		query.Del("host")
		query.Del("port")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u.Host = listener.Addr().String()
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	p := &Proxy{URL: u.String(), listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial(network, address)
			if err != nil {
				client.Close()
				continue
			}
			go pass(client, backend, delay)
			go pass(backend, client, delay)
		}
	}()
	return p, nil
}

// Close takes no more connections; those that are there go on until either end closes them.
func (p *Proxy) Close() { p.listener.Close() }

// pass copies what it reads, each part so much later, and closes both ends when one has ended.
func pass(from, to net.Conn, delay time.Duration) {
	type part struct {
		at   time.Time
		data []byte
	}
	parts := make(chan part, 1024)
	go func() {
		defer close(parts)
		for {
			buffer := make([]byte, 64<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				parts <- part{time.Now().Add(delay), buffer[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	defer from.Close()
	defer to.Close()
	for p := range parts {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.data); err != nil {
			go func() { // until the reader has seen that the end is closed
				for range parts {
				}
			}()
			return
		}
	}
}
