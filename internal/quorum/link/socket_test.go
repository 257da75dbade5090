package link

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestCloseUnderFlood: a socket whose queue is never empty can be closed.
func TestCloseUnderFlood(t *testing.T) {
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	s := &socket{}
	if err := s.open(udp); err != nil {
		t.Fatal(err)
	}
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	from, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	for range atOnce {
		if _, err := from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	flooded, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		taken := 0
		ended <- s.receive(func(netip.AddrPort, []byte) {
			for range 2 { // one datagram becomes two, until there is no room
				_, _ = from.Write([]byte("x"))
			}
			if taken++; taken == 1000 {
				close(flooded)
			}
		})
	}()
	<-flooded
	go udp.Close() // it waits for the receiver
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it still receives 10 s after it was closed")
	}
}
