package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tcp is a connection with room for what both sides write at once, as they do when both have something against the other.
func tcp(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// shake does a handshake and passes a byte to the client, which with TLS 1.3 hears only then whether its
// certificate was taken. The errors are those of the client and of the server.
func shake(a, b net.Conn, client, server *tls.Config) (c, s tls.ConnectionState, clientErr, serverErr error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer b.Close()
		t := tls.Server(b, server)
		if serverErr = t.Handshake(); serverErr == nil {
			_, serverErr = t.Write([]byte{1})
		}
		s = t.ConnectionState()
	}()
	t := tls.Client(a, client)
	if clientErr = t.Handshake(); clientErr == nil {
		var x [1]byte
		_, clientErr = io.ReadFull(t, x[:])
	}
	c = t.ConnectionState()
	<-ended
	a.Close()
	return c, s, clientErr, serverErr
}

func configs(t *testing.T, ck, sk Key, client, peer, server string) (*tls.Config, *tls.Config) {
	t.Helper()
	c, err := ck.Client(client, peer)
	if err != nil {
		t.Fatal(err)
	}
	c.NextProtos = []string{ProtocolRPC}
	s, err := sk.Server(server)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestHandshake(t *testing.T) {
	k := newKey(t)
	for _, tc := range []struct{ client, server string }{
		{"n1", "n2"}, {"w1/2", "w1"}, {"w1", "w1/2"}, {"DB_1", "db.example.org"}, {"n1", strings.Repeat("n", MaxName)},
	} {
		t.Run(tc.client+" to "+tc.server, func(t *testing.T) {
			c, s := configs(t, k, k, tc.client, tc.server, tc.server)
			a, b := tcp(t)
			cs, ss, cErr, sErr := shake(a, b, c, s)
			if cErr != nil || sErr != nil {
				t.Fatalf("client: %v; server: %v", cErr, sErr)
			}
			if got := PeerName(cs); got != tc.server {
				t.Errorf("client sees %q, want %q", got, tc.server)
			}
			if got := PeerName(ss); got != tc.client {
				t.Errorf("server sees %q, want %q", got, tc.client)
			}
			if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != ProtocolRPC || cs.DidResume {
				t.Errorf("version %x, protocol %q, resumed %v", cs.Version, cs.NegotiatedProtocol, cs.DidResume)
			}
		})
	}
}

func TestHandshakeRefused(t *testing.T) {
	k, other := newKey(t), newKey(t)
	for _, tc := range []struct {
		name        string
		configs     func() (*tls.Config, *tls.Config)
		want        string // of the client, or of the server if the client only hears of it
		wantExplain string
	}{
		{
			name:        "server with another key",
			configs:     func() (*tls.Config, *tls.Config) { return configs(t, k, other, "n1", "n2", "n2") },
			want:        "unknown authority",
			wantExplain: "its certificate comes from another key: every voter needs the same key file",
		},
		{
			name: "client with another key",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				o, _ := configs(t, other, other, "n1", "n2", "n2")
				c.Certificates = o.Certificates
				// Go sends no certificate that the server does not ask for; force it.
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &o.Certificates[0], nil }
				return c, s
			},
			want:        "unknown certificate authority",
			wantExplain: "it refuses our certificate: its key file is another one, or it takes our address for another voter's",
		},
		{
			name:    "server of another name",
			configs: func() (*tls.Config, *tls.Config) { return configs(t, k, k, "n1", "n2", "n3") },
			want:    `check certificate of n2: it names "n3"`,
		},
		{
			name:    "name that only begins alike",
			configs: func() (*tls.Config, *tls.Config) { return configs(t, k, k, "n1", "w1", "w1/2") },
			want:    `check certificate of w1: it names "w1/2"`,
		},
		{
			name: "client without a certificate",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				c.Certificates = nil
				return c, s
			},
			want: "certificate required",
		},
		{
			name: "TLS 1.2",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
				return c, s
			},
			want: "protocol version",
		},
		{
			name: "other protocol",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				c.NextProtos = []string{"http/1.1"}
				return c, s
			},
			want: "no application protocol",
		},
		{
			name: "self-signed certificate",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				s.Certificates = []tls.Certificate{selfSigned(t, "n2")}
				return c, s
			},
			want:        "unknown authority",
			wantExplain: "its certificate comes from another key: every voter needs the same key file",
		},
		{
			name: "client whose certificate has an impossible name",
			configs: func() (*tls.Config, *tls.Config) {
				c, s := configs(t, k, k, "n1", "n2", "n2")
				cert, _, err := k.certificate("n 1")
				if err != nil {
					t.Fatal(err)
				}
				c.Certificates = []tls.Certificate{cert}
				return c, s
			},
			want: "bad certificate",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := tc.configs()
			a, b := tcp(t)
			_, _, cErr, sErr := shake(a, b, c, s)
			if cErr == nil || sErr == nil {
				t.Fatalf("client: %v; server: %v", cErr, sErr)
			}
			if !strings.Contains(cErr.Error(), tc.want) {
				t.Errorf("client: got %q, want it to say %q; server: %v", cErr, tc.want, sErr)
			}
			if tc.wantExplain != "" && Explain(cErr) != tc.wantExplain {
				t.Errorf("explained as %q, want %q", Explain(cErr), tc.wantExplain)
			}
		})
	}
	if got := Explain(errors.New("something else")); got != "" {
		t.Errorf("an unrelated error is explained as %q", got)
	}
}

func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{service},
		NotBefore: notBefore(), NotAfter: notAfter(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

func TestBadNames(t *testing.T) {
	k := newKey(t)
	if _, err := k.Server(""); err == nil {
		t.Error("a server without a name")
	}
	if _, err := k.Client("n1", ""); err == nil {
		t.Error("a client of any peer")
	}
	if _, err := k.Client("n1@x", "n2"); err == nil {
		t.Error("a client with an impossible name")
	}
	if got := PeerName(tls.ConnectionState{}); got != "" {
		t.Errorf("without a handshake the peer is %q", got)
	}
	unverified := tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "n1"}}}}
	if got := PeerName(unverified); got != "" {
		t.Errorf("an unverified peer is %q", got)
	}
}

// The bubble's wall clock starts in 2000 and goes as far as we sleep. For clocks before 2000 there is the second test.
func TestWallClockIsNoPart(t *testing.T) {
	k := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		for range 4 {
			c, s := configs(t, k, k, "n1", "n2", "n2")
			early := time.Now()
			a, b := net.Pipe()
			if _, _, cErr, sErr := shake(a, b, c, s); cErr != nil || sErr != nil {
				t.Errorf("in %d: client: %v; server: %v", early.Year(), cErr, sErr)
			}
			time.Sleep(50 * 365 * 24 * time.Hour)
			// Certificates made fifty years ago.
			a, b = net.Pipe()
			if _, _, cErr, sErr := shake(a, b, c, s); cErr != nil || sErr != nil {
				t.Errorf("in %d with certificates of %d: client: %v; server: %v", time.Now().Year(), early.Year(), cErr, sErr)
			}
		}
		if got := time.Now().Year(); got < 2199 {
			t.Errorf("the clock came to %d only", got)
		}
	})
}

func TestVerificationTimeIsFixed(t *testing.T) {
	k := newKey(t)
	c, s := configs(t, k, k, "n1", "n2", "n2")
	for name, config := range map[string]*tls.Config{"client": c, "server": s} {
		leaf := config.Certificates[0].Leaf
		at := config.Time()
		if !at.Equal(verifyAt()) || at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
			t.Errorf("%s verifies at %v, certificates are valid from %v to %v", name, at, leaf.NotBefore, leaf.NotAfter)
		}
		if got, want := leaf.NotBefore.Year(), 2000; got != want {
			t.Errorf("%s: valid from %d, want %d", name, got, want)
		}
		if got, want := leaf.NotAfter.Year(), 9999; got != want {
			t.Errorf("%s: valid to %d, want %d", name, got, want)
		}
		if !config.SessionTicketsDisabled || config.MinVersion != tls.VersionTLS13 || config.InsecureSkipVerify {
			t.Errorf("%s: tickets disabled %v, version %x, verification skipped %v",
				name, config.SessionTicketsDisabled, config.MinVersion, config.InsecureSkipVerify)
		}
	}
}
