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

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Probe asks the service LAN again and again who has an IPv4 address, as arping does, and keeps who answered which
// question. Questions carry 0.0.0.0 as sender (RFC 5227), so that no neighbour table changes, and each a number in the
// sender's hardware address, so that two answers to one question are told from two answers to two.
type Probe struct {
	vip   netip.Addr
	l     *Lab
	from  string
	mac   [6]byte // the asker's
	mark  [2]byte // begins every question's sender address
	ports []int   // interfaces to ask through; several are those of the switch
	stop  context.CancelFunc
	done  chan struct{}
	sock  *os.File

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
	p := &Probe{vip: vip, l: h.l, from: h.name, mac: h.mac(LAN), mark: probeMark, done: make(chan struct{})}
	var fd int
	err := h.NetDo(func() (err error) {
		ifc, err := net.InterfaceByName(LAN.Interface())
		if err != nil {
			return err
		}
		p.ports = []int{ifc.Index}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		for opt, value := range map[int]int{unix.SO_TIMESTAMPNS: 1, unix.SO_RCVBUFFORCE: 8 << 20} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, value); err != nil {
				return err
			}
		}
		// Answers go to the number's address, which is not the interface's own.
		mreq := &unix.PacketMreq{Ifindex: int32(ifc.Index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: ifc.Index})
	})
	if err != nil {
		if fd > 0 {
			unix.Close(fd)
		}
		return nil, wrap(err)
	}
	p.run(fd, every)
	return p, nil
}

// ProbeEach asks each of the hosts (none named: all but the client) by itself, through its own cable of the service LAN and from
// the switch's end of it, once per interval (1 ms and more): what a client beside each host would hear, on every side of any
// partition. Only a pulled cable and a lost power keep a host from answering. Report's Double then has the questions that two
// hosts answered within 5 ms, for they are asked one after the other.
func (l *Lab) ProbeEach(vip netip.Addr, every time.Duration, hosts ...string) (*Probe, error) {
	wrap := func(err error) error { return fmt.Errorf("probe %s at every host: %w", vip, err) }
	if !vip.Is4() || every < time.Millisecond {
		return nil, wrap(errors.New("an IPv4 address and an interval of at least 1 ms are needed"))
	}
	p := &Probe{vip: vip, l: l, from: "the switch", mac: [6]byte{eachMark[0], eachMark[1]}, mark: eachMark, done: make(chan struct{})}
	if len(hosts) == 0 {
		hosts = l.Names(l.client.name)
	}
	for _, name := range hosts {
		_, index := l.Host(name).port(LAN)
		p.ports = append(p.ports, index)
	}
	// The answers go to nobody: without this the switch would flood them to all.
	rules := fmt.Sprintf("table bridge labprobe\ndelete table bridge labprobe\ntable bridge labprobe {\n"+
		"\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n"+
		"\t\tether daddr and ff:ff:00:00:00:00 == %02x:%02x:00:00:00:00 drop\n\t}\n}\n", eachMark[0], eachMark[1])
	if res, err := l.ctl.run(context.Background(), Command{Argv: []string{"nft", "-f", "-"}, Stdin: rules}); err != nil {
		return nil, wrap(fmt.Errorf("%w: %s", err, res.Stderr))
	}
	var fd int
	err := l.sw.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, wrap(err)
	}
	err = listenForAnswers(fd)
	if err != nil {
		unix.Close(fd)
		return nil, wrap(err)
	}
	p.run(fd, every)
	return p, nil
}

// listenForAnswers has a socket of the switch hear the answers to ProbeEach's questions, before the bridge takes them.
func listenForAnswers(fd int) error {
	for opt, value := range map[int]int{unix.SO_TIMESTAMPNS: 1, unix.SO_RCVBUFFORCE: 8 << 20} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, value); err != nil {
			return err
		}
	}
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherARP, SkipFalse: 3},
		bpf.LoadAbsolute{Off: 0, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(eachMark[0])<<8 | uint32(eachMark[1]), SkipFalse: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)})
}

// run starts what asks and what listens; the lab ends both.
func (p *Probe) run(fd int, every time.Duration) {
	p.sock = os.NewFile(uintptr(fd), "probe")
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.l.mu.Lock()
	p.l.probes = append(p.l.probes, p)
	p.l.mu.Unlock()
	go func() {
		defer close(p.done)
		p.listen(ctx)
	}()
	go p.ask(ctx, every)
}

// The first two bytes of every question's sender address; locally administered, and nobody's in the lab.
var (
	probeMark = [2]byte{0x06, 0xa5}
	eachMark  = [2]byte{0x06, 0xa6}
)

// together is how close answers to ProbeEach's question are that count as given at once.
const together = 5 * time.Millisecond

func (p *Probe) ask(ctx context.Context, every time.Duration) {
	defer p.sock.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for {
		p.mu.Lock()
		n := len(p.asked)
		p.asked = append(p.asked, time.Now())
		p.mu.Unlock()
		b := append(slices.Clone(broadcast), p.mac[:]...)
		b = binary.BigEndian.AppendUint16(b, etherARP)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1, p.mark[0], p.mark[1])
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		b = append(b, p.vip.AsSlice()...)
		rc, err := p.sock.SyscallConn()
		for k := 0; err == nil && k < len(p.ports); k++ {
			to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: p.ports[k], Halen: 6, Addr: [8]byte(append(broadcast[:6:6], 0, 0))}
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
		var n, oobn, port int
		var recvErr error
		err := rc.Read(func(fd uintptr) bool {
			var from unix.Sockaddr
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); ok {
				port = ll.Ifindex
			}
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
		if f.ARP == nil || f.ARP.Op != 2 || f.ARP.SenderIP != p.vip || [2]byte(f.ARP.TargetMAC[:2]) != p.mark {
			continue
		}
		at, err := timestamp(oob[:oobn])
		if err != nil {
			continue
		}
		if h, _ := p.l.portOwner(port); h != nil && h.mute.Load() {
			continue // its links were cut before: nobody else hears it
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

// Holding is a stretch in which one host answered; in Gaps it is one in which nobody did.
type Holding struct {
	Who         string
	First, Last time.Time // its first and last answer
	Answers     int
	// Unanswered counts a gap's questions; on a busy machine few are asked.
	Unanswered int
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
		return ProbeReport{}, fmt.Errorf("probe %s from %s: %w", p.vip, p.from, p.err)
	}
	r := ProbeReport{Questions: len(p.asked)}
	first := make([]int32, len(p.asked)) // its answer's place, counted from 1
	answered, several := 0, map[int]map[string]Answer{}
	for k, a := range p.answers {
		switch f := first[a.Question]; {
		case f == 0:
			first[a.Question] = int32(k + 1)
			answered++
		case p.answers[f-1].MAC != a.MAC:
			if several[a.Question] == nil {
				several[a.Question] = map[string]Answer{p.answers[f-1].MAC: p.answers[f-1]}
			}
			several[a.Question][a.MAC] = a
		}
		if n := len(r.Holdings); n > 0 && r.Holdings[n-1].Who == a.Who() {
			r.Holdings[n-1].Last = a.At
			r.Holdings[n-1].Answers++
		} else {
			r.Holdings = append(r.Holdings, Holding{Who: a.Who(), First: a.At, Last: a.At, Answers: 1})
		}
	}
	r.Unanswered = r.Questions - answered
	for _, q := range slices.Sorted(maps.Keys(several)) {
		if len(p.ports) == 1 || atOnce(several[q]) {
			for _, mac := range slices.Sorted(maps.Keys(several[q])) {
				r.Double = append(r.Double, several[q][mac])
			}
		}
	}
	return r, nil
}

// atOnce reports whether two of the answers to one question came together.
func atOnce(answers map[string]Answer) bool {
	for _, a := range answers {
		for _, b := range answers {
			if a.MAC != b.MAC && a.At.Sub(b.At).Abs() <= together {
				return true
			}
		}
	}
	return false
}

// Last returns the last answer before a time (zero: now) by a host ("": any).
func (p *Probe) Last(before time.Time, who string) (Answer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range slices.Backward(p.answers) {
		if (before.IsZero() || a.At.Before(before)) && (who == "" || a.Who() == who) {
			return a, true
		}
	}
	return Answer{}, false
}

// Unanswered returns how many questions, of those asked before a time, came after the last one that was answered.
func (p *Probe) Unanswered(before time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := -1
	for _, a := range p.answers[max(0, len(p.answers)-100):] {
		last = max(last, a.Question)
	}
	n := 0
	for q := len(p.asked) - 1; q > last; q-- {
		if p.asked[q].Before(before) {
			n++
		}
	}
	return n
}

// Gaps returns the stretches longer than min between two answers, from whomever.
func (p *Probe) Gaps(min time.Duration) []Holding {
	p.mu.Lock()
	defer p.mu.Unlock()
	var gaps []Holding
	for i := 1; i < len(p.answers); i++ {
		a, b := p.answers[i-1], p.answers[i]
		if b.At.Sub(a.At) > min {
			gaps = append(gaps, Holding{Who: a.Who() + " -> " + b.Who(), First: a.At, Last: b.At, Unanswered: b.Question - a.Question - 1})
		}
	}
	return gaps
}

// WaitFor returns the first answer by a host (or hardware address) at or after a time.
func (p *Probe) WaitFor(ctx context.Context, who string, after time.Time) (Answer, error) {
	return p.wait(ctx, who, after, func(a Answer) bool { return a.Who() == who })
}

// WaitForOther returns the first answer at or after a time by a host that is none of those given.
func (p *Probe) WaitForOther(ctx context.Context, than []string, after time.Time) (Answer, error) {
	return p.wait(ctx, fmt.Sprintf("another than %v", than), after, func(a Answer) bool { return !slices.Contains(than, a.Who()) })
}

func (p *Probe) wait(ctx context.Context, who string, after time.Time, match func(Answer) bool) (Answer, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	seen := 0
	for {
		p.mu.Lock()
		for ; seen < len(p.answers); seen++ {
			if a := p.answers[seen]; !a.At.Before(after) && match(a) {
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
