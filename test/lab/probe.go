package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Probe asks the service LAN again and again who has an IPv4 address, as arping does, and keeps who answered which
// question. Questions carry 0.0.0.0 as sender (RFC 5227), so that no neighbour table changes, and each a number in the
// sender's hardware address, so that two answers to one question are told from two answers to two.
type Probe struct {
	vip   netip.Addr
	l     *Lab
	host  string
	stop  context.CancelFunc
	done  chan struct{}
	sock  *os.File
	index int

	mu      sync.Mutex
	asked   []time.Time // by question
	answers []Answer
	err     error
}

// Answer is one reply.
type Answer struct {
	Question int // 0 is the first
	At       time.Time
	MAC      string
	// Host has that hardware address; "" for a virtual one.
	Host string
}

// Who names the answering host, or its address if that belongs to none.
func (a Answer) Who() string {
	if a.Host != "" {
		return a.Host
	}
	return a.MAC
}

// ProbeARP starts to ask from this host's side of the network, once per interval (1 ms and more).
func (h *Host) ProbeARP(vip netip.Addr, every time.Duration) (*Probe, error) {
	wrap := func(err error) error { return fmt.Errorf("probe %s from %s: %w", vip, h.name, err) }
	if !vip.Is4() || every < time.Millisecond {
		return nil, wrap(errors.New("an IPv4 address and an interval of at least 1 ms are needed"))
	}
	p := &Probe{vip: vip, l: h.l, host: h.name, done: make(chan struct{})}
	var fd int
	err := h.NetDo(func() (err error) {
		ifc, err := net.InterfaceByName(LAN.Interface())
		if err != nil {
			return err
		}
		p.index = ifc.Index
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		for opt, value := range map[int]int{unix.SO_TIMESTAMPNS: 1, unix.SO_RCVBUFFORCE: 8 << 20} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, value); err != nil {
				return err
			}
		}
		// Answers go to the number's address, which is not the interface's own.
		mreq := &unix.PacketMreq{Ifindex: int32(p.index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: p.index})
	})
	if err != nil {
		if fd > 0 {
			unix.Close(fd)
		}
		return nil, wrap(err)
	}
	p.sock = os.NewFile(uintptr(fd), "probe")
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	h.l.mu.Lock()
	h.l.probes = append(h.l.probes, p)
	h.l.mu.Unlock()
	go func() {
		defer close(p.done)
		p.listen(ctx)
	}()
	go p.ask(ctx, h.MAC(LAN), every)
	return p, nil
}

// The first two bytes of every question's sender address; locally administered, and nobody's in the lab.
var probeMark = [2]byte{0x06, 0xa5}

func (p *Probe) ask(ctx context.Context, mac net.HardwareAddr, every time.Duration) {
	defer p.sock.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for {
		p.mu.Lock()
		n := len(p.asked)
		p.asked = append(p.asked, time.Now())
		p.mu.Unlock()
		b := append(slices.Clone(broadcast), mac...)
		b = binary.BigEndian.AppendUint16(b, etherARP)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1, probeMark[0], probeMark[1])
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		b = append(b, p.vip.AsSlice()...)
		rc, err := p.sock.SyscallConn()
		if err == nil {
			to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: p.index, Halen: 6, Addr: [8]byte(append(broadcast[:6:6], 0, 0))}
			// A link that is down loses the question; that there's no answer is what the probe is for.
			_ = rc.Write(func(fd uintptr) bool { return !errors.Is(unix.Sendto(int(fd), b, 0, to), unix.EAGAIN) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Probe) listen(ctx context.Context) {
	rc, err := p.sock.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 256), make([]byte, 256)
	for {
		var n, oobn int
		var recvErr error
		err := rc.Read(func(fd uintptr) bool {
			n, oobn, _, _, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err == nil {
			err = recvErr
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				p.mu.Lock()
				p.err = err
				p.mu.Unlock()
			}
			return
		}
		f := Frame{Raw: buf[:n]}
		f.parse()
		if f.ARP == nil || f.ARP.Op != 2 || f.ARP.SenderIP != p.vip || [2]byte(f.ARP.TargetMAC[:2]) != probeMark {
			continue
		}
		at, err := timestamp(oob[:oobn])
		if err != nil {
			continue
		}
		a := Answer{Question: int(binary.BigEndian.Uint32(f.ARP.TargetMAC[2:])), At: at, MAC: f.ARP.SenderMAC.String(), Host: p.l.hostByMAC([6]byte(f.ARP.SenderMAC))}
		p.mu.Lock()
		p.answers = append(p.answers, a)
		p.mu.Unlock()
	}
}

// Stop ends the probe. Answers on their way within the last interval may be missed.
func (p *Probe) Stop() {
	p.stop()
	<-p.done
}

// Answers returns all replies so far.
func (p *Probe) Answers() []Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answers)
}

// Holding is a stretch in which one host answered.
type Holding struct {
	Who         string
	First, Last time.Time // its first and last answer
	Answers     int
}

// ProbeReport says who had the address when.
type ProbeReport struct {
	Questions int
	// Unanswered counts questions without any answer.
	Unanswered int
	// Double has the questions that more than one host answered.
	Double []Answer
	// Holdings are in the order of their first answers; a host that comes back stands again.
	Holdings []Holding
}

// Report sums up what was heard so far. It fails if the probe couldn't listen: no answer would then mean nothing.
func (p *Probe) Report() (ProbeReport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return ProbeReport{}, fmt.Errorf("probe %s from %s: %w", p.vip, p.host, p.err)
	}
	r := ProbeReport{Questions: len(p.asked)}
	by := map[int]map[string]Answer{}
	for _, a := range p.answers {
		if by[a.Question] == nil {
			by[a.Question] = map[string]Answer{}
		}
		by[a.Question][a.MAC] = a
		if n := len(r.Holdings); n > 0 && r.Holdings[n-1].Who == a.Who() {
			r.Holdings[n-1].Last = a.At
			r.Holdings[n-1].Answers++
		} else {
			r.Holdings = append(r.Holdings, Holding{Who: a.Who(), First: a.At, Last: a.At, Answers: 1})
		}
	}
	r.Unanswered = r.Questions - len(by)
	for _, q := range slices.Sorted(maps.Keys(by)) {
		if len(by[q]) > 1 {
			for _, mac := range slices.Sorted(maps.Keys(by[q])) {
				r.Double = append(r.Double, by[q][mac])
			}
		}
	}
	return r, nil
}

// Gaps returns the stretches longer than min between two answers, from whomever.
func (p *Probe) Gaps(min time.Duration) []Holding {
	p.mu.Lock()
	defer p.mu.Unlock()
	var gaps []Holding
	for i := 1; i < len(p.answers); i++ {
		a, b := p.answers[i-1], p.answers[i]
		if b.At.Sub(a.At) > min {
			gaps = append(gaps, Holding{Who: a.Who() + " -> " + b.Who(), First: a.At, Last: b.At})
		}
	}
	return gaps
}

// WaitFor returns the first answer by a host (or hardware address) at or after a time.
func (p *Probe) WaitFor(ctx context.Context, who string, after time.Time) (Answer, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	seen := 0
	for {
		p.mu.Lock()
		for ; seen < len(p.answers); seen++ {
			if a := p.answers[seen]; a.Who() == who && !a.At.Before(after) {
				p.mu.Unlock()
				return a, nil
			}
		}
		p.mu.Unlock()
		select {
		case <-tick.C:
		case <-p.done:
			return Answer{}, fmt.Errorf("wait for %s to answer for %s: the probe has ended", who, p.vip)
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("wait for %s to answer for %s: %w", who, p.vip, ctx.Err())
		}
	}
}
