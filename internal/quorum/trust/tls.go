package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// What a connection is for, as its ALPN protocol (RFC 7301). A client names exactly one of them in NextProtos.
const (
	ProtocolRaft = "vrrpd-raft"
	ProtocolRPC  = "vrrpd-rpc"
)

// service is the DNS name in every certificate, so that the standard verification has something to match. Who the peer
// is stands in the subject's common name alone: a voter's id may have characters that no DNS name has.
const service = "voter.vrrpd.internal"

// notBefore, notAfter and verifyAt bound and fix the validity: a wrong wall clock must never break the cluster.
func notBefore() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
func notAfter() time.Time  { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }
func verifyAt() time.Time  { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }

// Server is the accepting side's configuration of voter name: TLS 1.3, a certificate of its own, and none but peers
// whose certificate comes from the same key. PeerName tells who they are.
func (k Key) Server(name string) (*tls.Config, error) {
	c, err := k.config(name)
	if err != nil {
		return nil, err
	}
	c.NextProtos = []string{ProtocolRaft, ProtocolRPC}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := CheckName(PeerName(cs)); err != nil {
			return fmt.Errorf("check certificate of peer: %w", err)
		}
		return nil
	}
	return c, nil
}

// Client is the dialing side's configuration of voter name, for connections to the voter peer and no other. The caller
// sets NextProtos.
func (k Key) Client(name, peer string) (*tls.Config, error) {
	if err := CheckName(peer); err != nil {
		return nil, fmt.Errorf("make TLS configuration for a peer: %w", err)
	}
	c, err := k.config(name)
	if err != nil {
		return nil, err
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if got := PeerName(cs); got != peer {
			return fmt.Errorf("check certificate of %s: it names %q", peer, got)
		}
		return nil
	}
	return c, nil
}

// PeerName is the voter's id in the verified certificate of the other side, "" if none was verified.
func PeerName(cs tls.ConnectionState) string {
	if len(cs.VerifiedChains) == 0 || len(cs.PeerCertificates) == 0 {
		return ""
	}
	return cs.PeerCertificates[0].Subject.CommonName
}

// Explain says in words what a failed handshake has against the other side's key, or the other side against ours; ""
// if the failure is about something else.
func Explain(err error) string {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return "its certificate comes from another key: every voter needs the same key file"
	}
	// The alerts of RFC 8446 section 6.2: crypto/tls gives those that it receives no exported type.
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		switch remote.Err.Error() {
		case "tls: unknown certificate authority", "tls: bad certificate":
			return "it refuses our certificate: its key file is another one, or it takes our address for another voter's"
		}
	}
	return ""
}

// config is what both sides share.
func (k Key) config(name string) (*tls.Config, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	cert, roots, err := k.certificate(name)
	if err != nil {
		return nil, fmt.Errorf("make certificate of %s: %w", name, err)
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		RootCAs:                roots,
		ClientCAs:              roots,
		ServerName:             service,
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		Time:                   verifyAt,
	}, nil
}

// certificate makes a certificate for name with a fresh key, signed by the authority that follows from k.
func (k Key) certificate(name string) (tls.Certificate, *x509.CertPool, error) {
	seed, err := k.derive("ca")
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	caKey := ed25519.NewKeyFromSeed(seed)
	caTemplate := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "vrrpd quorum key"},
		NotBefore:             notBefore(),
		NotAfter:              notAfter(),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(2)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             notBefore(),
		NotAfter:              notAfter(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{service},
	}
	der, err = x509.CreateCertificate(rand.Reader, template, ca, public, caKey)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}, pool, nil
}
