package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/system"
	"pgvrrp/internal/vrrp"
)

// place is where instances share a receiving socket: an interface, a family, and a group or unicast.
type place struct {
	iface string
	ipv6  bool
	group netip.Addr // zero: unicast
}

func placeOf(c *conf.Instance) place {
	p := place{iface: wireInterface(c), ipv6: c.IPv6}
	if !c.Unicast {
		p.group = c.Group
	}
	return p
}

// port is the sender of an interface and family.
type port struct {
	iface string
	ipv6  bool
	vmac  bool // it sends from the address of its parent
}

// wire owns the VRRP sockets. Instances on one interface share them, so that 250 instances cost two sockets.
type wire struct {
	log      *slog.Logger
	changed  func()      // an ear lost or found its hearing
	logVRIDs atomic.Bool // log_unknown_vrids

	mu      sync.Mutex
	ears    map[place]*ear
	senders map[port]*system.Sender
	unknown map[string]*strays // by interface
}

// strays counts the packets of an interface that no instance wants.
type strays struct {
	mu         sync.Mutex
	rejected   map[string]uint64
	complained map[string]time.Time
	logVRIDs   *atomic.Bool
}

func newWire(log *slog.Logger, changed func()) *wire {
	return &wire{log: log, changed: changed, ears: map[place]*ear{}, senders: map[port]*system.Sender{}, unknown: map[string]*strays{}}
}

// ear is one receiving socket, its reader, and who listens to which VRID. Several unicast instances may share a VRID if they have
// different peers.
type ear struct {
	receiver *system.Receiver
	table    [256]atomic.Pointer[[]*instance.Instance]
	users    int
	stop     chan struct{}
	done     chan struct{}
	opening  sync.Mutex             // held while the socket is opened anew and trouble says how that went
	trouble  atomic.Pointer[string] // why nothing can be heard; nil: all is well
}

// hears finds who an advert is for: of several, the one that has the sender for a peer.
func (e *ear) hears(vrid uint8, from netip.Addr) *instance.Instance {
	list := e.table[vrid].Load()
	if list == nil || len(*list) == 0 {
		return nil
	}
	for _, i := range (*list)[1:] {
		if i.HasPeer(from) {
			return i
		}
	}
	return (*list)[0]
}

// change replaces the list of a VRID's listeners.
func (e *ear) change(vrid uint8, f func([]*instance.Instance) []*instance.Instance) {
	var list []*instance.Instance
	if old := e.table[vrid].Load(); old != nil {
		list = slices.Clone(*old)
	}
	before := len(list)
	list = f(list)
	e.users += len(list) - before
	e.table[vrid].Store(&list)
}

func (e *ear) add(vrid uint8, i *instance.Instance) {
	e.change(vrid, func(list []*instance.Instance) []*instance.Instance { return append(list, i) })
}

// listen has i hear the adverts for its VRID. The socket is opened for the first listener of a place.
func (w *wire) listen(c *conf.Instance, i *instance.Instance) error {
	p := placeOf(c)
	if w.join(p, c.VRID, i) {
		return nil
	}
	// Only the main task opens, so nobody can be faster; and nobody waits for the lock while the kernel works.
	config := system.ReceiverConfig{Interface: p.iface, IPv6: p.ipv6, Group: p.group}
	if p.iface != c.Interface {
		config.JoinOn = c.Interface
	}
	r, err := system.OpenReceiver(config)
	if err != nil {
		return err
	}
	e := &ear{receiver: r, stop: make(chan struct{}), done: make(chan struct{})}
	e.add(c.VRID, i)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ears[p] = e
	if w.unknown[p.iface] == nil {
		w.unknown[p.iface] = &strays{rejected: map[string]uint64{}, complained: map[string]time.Time{}, logVRIDs: &w.logVRIDs}
	}
	go e.run(w.log.With("interface", p.iface), w.unknown[p.iface], w.changed)
	return nil
}

// join has i hear what the ear of a place does, if there is one. forget may close it at any time, so it is found and joined under one
// lock.
func (w *wire) join(p place, vrid uint8, i *instance.Instance) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.ears[p]
	if e != nil {
		e.add(vrid, i)
	}
	return e != nil
}

// forget undoes listen. The socket is closed after its last listener.
func (w *wire) forget(c *conf.Instance, i *instance.Instance) {
	p := placeOf(c)
	w.mu.Lock()
	e := w.ears[p]
	if e == nil {
		w.mu.Unlock()
		return
	}
	e.change(c.VRID, func(list []*instance.Instance) []*instance.Instance {
		return slices.DeleteFunc(list, func(o *instance.Instance) bool { return o == i })
	})
	last := e.users == 0
	if last {
		delete(w.ears, p)
	}
	w.mu.Unlock()
	if last {
		e.close(w.log)
	}
}

// sender is the socket that adverts leave an interface by; the main task opens it.
func (w *wire) sender(p port) (*system.Sender, error) {
	w.mu.Lock()
	s := w.senders[p]
	w.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := system.OpenSender(system.SenderConfig{Interface: p.iface, IPv6: p.ipv6, AnySource: p.vmac})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.senders[p] = s
	return s, nil
}

// follow reopens the sockets of interfaces that were made anew; until that works the instances there are told of the trouble.
func (w *wire) follow(m *system.Monitor) {
	w.mu.Lock()
	ears, senders := maps.Clone(w.ears), maps.Clone(w.senders)
	w.mu.Unlock()
	moved := func(name string, index int) bool {
		link, ok := m.Link(name)
		return ok && link.Index != index
	}
	for p, e := range ears {
		// Its error is told by trouble.
		_ = e.reopen(func() bool { return moved(p.iface, e.receiver.Index()) })
	}
	for p, s := range senders {
		if !moved(p.iface, s.Index()) {
			continue
		}
		if err := s.Reopen(); err != nil {
			w.mu.Lock()
			delete(w.senders, p) // sender tries anew and has the error
			w.mu.Unlock()
			_ = s.Close()
		}
	}
}

func (w *wire) close() {
	w.mu.Lock()
	ears, senders := w.ears, w.senders
	w.ears, w.senders = map[place]*ear{}, map[port]*system.Sender{}
	w.mu.Unlock()
	for _, e := range ears {
		e.close(w.log)
	}
	for _, s := range senders {
		if err := s.Close(); err != nil {
			w.log.Warn("close sender", "error", err)
		}
	}
}

func (w *wire) status(m *system.Monitor) []control.Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []control.Link
	for name, s := range w.unknown {
		link, _ := m.Link(name)
		out := control.Link{Name: name, Up: link.Up, Rejected: map[string]uint64{}}
		s.mu.Lock()
		for k, v := range s.rejected {
			out.Rejected[k] = v
		}
		s.mu.Unlock()
		all = append(all, out)
	}
	return all
}

// packetBuffer takes the largest VRRP packet, 255 IPv6 addresses, with room to spare.
const packetBuffer = 8 << 10

// hearAgain is how soon a socket that failed is opened anew.
const hearAgain = 100 * time.Millisecond

// run reads until the receiver is closed. A socket that fails makes us deaf, and who is deaf must not believe that the master
// is silent: the trouble is told, and the socket opened anew until that works.
func (e *ear) run(log *slog.Logger, s *strays, changed func()) {
	defer close(e.done)
	buf := make([]byte, packetBuffer)
	for {
		payload, meta, err := e.receiver.Read(buf)
		now := time.Now()
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, system.ErrTruncated):
			s.count(log, now, "truncated", meta.Src, true)
		case errors.Is(err, system.ErrHeader):
			s.count(log, now, "ip_header", meta.Src, true)
		case err != nil:
			if !e.recover(log, err, changed) {
				return
			}
		default:
			vrid, ok := vrrp.PeekVRID(payload)
			if !ok {
				s.count(log, now, vrrp.RejectTooShort.String(), meta.Src, true)
				continue
			}
			if i := e.hears(vrid, meta.Src); i != nil {
				i.Receive(vrrp.Packet{Payload: payload, Src: meta.Src, Dst: meta.Dst, TTL: meta.TTL, Clock: now}, now)
			} else {
				// Other virtual routers may well share the LAN; keepalived's log_unknown_vrids tells of them.
				s.count(log, now, vrrp.RejectVRID.String(), meta.Src, s.logVRIDs.Load())
			}
		}
	}
}

// recover tells why nothing can be heard and opens the socket anew until that works; false when the receiver was closed.
func (e *ear) recover(log *slog.Logger, err error, changed func()) bool {
	text := err.Error()
	e.trouble.Store(&text)
	changed()
	log.Error("cannot hear adverts", "error", err)
	for {
		select {
		case <-e.stop:
			return false
		case <-time.After(hearAgain):
		}
		if err := e.reopen(func() bool { return true }); err == nil {
			changed()
			log.Info("adverts can be heard again")
			return true
		}
	}
}

// reopen opens the socket anew if that is still wanted, and notes why it could not. follow and recover may both be at it: the failure of
// one must not stand after the success of the other, for then nobody would try again.
func (e *ear) reopen(wanted func() bool) error {
	e.opening.Lock()
	defer e.opening.Unlock()
	if !wanted() {
		return nil
	}
	if err := e.receiver.Reopen(); err != nil {
		text := err.Error()
		e.trouble.Store(&text)
		return err
	}
	e.trouble.Store(nil)
	return nil
}

// trouble says why adverts of c cannot be heard; "" if they can.
func (w *wire) trouble(c *conf.Instance) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.ears[placeOf(c)]
	if e == nil {
		return ""
	}
	if t := e.trouble.Load(); t != nil {
		return *t
	}
	return ""
}

func (e *ear) close(log *slog.Logger) {
	close(e.stop)
	if err := e.receiver.Close(); err != nil {
		log.Warn("close receiver", "error", err)
	}
	<-e.done
}

// count counts a packet and, if it is worth a line, tells of it once a minute at most for each reason.
func (s *strays) count(log *slog.Logger, now time.Time, reason string, from netip.Addr, worth bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected[reason]++
	if !worth {
		return
	}
	if last, ok := s.complained[reason]; ok && now.Sub(last) < time.Minute {
		return
	}
	s.complained[reason] = now
	log.Warn("packet for no instance", "peer", from, "reason", reason, "total", s.rejected[reason])
}
