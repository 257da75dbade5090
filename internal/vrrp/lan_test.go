package vrrp

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt with what happens now")

// TestTranscripts replays the stories of testdata on a simulated LAN. A story is a list of blocks: comments and
// commands, a line of four dashes, what happened, an empty line. lan.command lists the commands.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimRight(got, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(text); got != want {
				t.Errorf("the story has changed (-update rewrites it); got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// replay runs a story and gives it back with what happens now.
func replay(t *testing.T, story string) string {
	t.Helper()
	l := newLAN(t)
	var out strings.Builder
	output := false
	for line := range strings.Lines(story) {
		switch line = strings.TrimRight(line, "\n"); {
		case line == "----":
			fmt.Fprintf(&out, "----\n%s", l.takeOutput())
			output = true
		case output:
			if line == "" {
				output = false
				out.WriteString("\n")
			}
		default:
			out.WriteString(line + "\n")
			if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
				if err := l.command(words[0], words[1:]); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
		}
	}
	if left := l.takeOutput(); left != "" {
		t.Fatalf("the story ends without ----; it gave:\n%s", left)
	}
	return out.String()
}

// latency is how long a packet takes.
const latency = time.Millisecond

// lan is a link with routers on it, in virtual time. Adverts go over it as bytes.
type lan struct {
	t       *testing.T
	now     time.Time
	hosts   []*host // in the order of their "router" commands
	flying  []flight
	cut     map[[2]string]bool // from, to
	adverts bool               // show the periodic ones too
	out     strings.Builder
}

type host struct {
	name    string
	config  Config
	filter  Filter
	addrs   []netip.Addr
	m       *machine // nil: not running
	stalled bool     // gets no processor: neither timers nor packets
	waiting []flight // packets in the socket of a stalled host
	hooks   []uint64 // Seq of each transition to Active
	told    map[string]bool
}

type flight struct {
	at     time.Time
	to     *host
	from   string
	packet Packet
}

func newLAN(t *testing.T) *lan { return &lan{t: t, now: epoch, cut: map[[2]string]bool{}} }

func (l *lan) takeOutput() string {
	s := l.out.String()
	l.out.Reset()
	return s
}

func (l *lan) print(h *host, format string, args ...any) {
	fmt.Fprintf(&l.out, "%8.3fs %s %s\n", l.now.Sub(epoch).Seconds(), h.name, fmt.Sprintf(format, args...))
}

func (l *lan) host(name string) (*host, error) {
	for _, h := range l.hosts {
		if h.name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("no router %q", name)
}

// command does one line of a story:
//
//	router NAME [priority N] [interval D] [version N] [address A] [nopreempt] …   see lan.router
//	start NAME · stop NAME · crash NAME       begin, leave in order, lose power
//	stall NAME · resume NAME                  get no processor for a while
//	run D                                     let time pass
//	cut A B [oneway] · heal                   lose packets between two (from A to B alone) · lose none
//	priority NAME N                           the trackers changed it
//	fault NAME REASON · clear NAME
//	lost NAME REASON                          an address was taken away by others
//	hook NAME ok|fail [REASON] · hook NAME late   end of the hook of the last, or of the last but one takeover
//	release NAME D
//	grant NAME [REASON] · revoke NAME [REASON]   of a gated router; the story says who is granted what
//	stalled NAME                              the machine was stopped for long, and found it out
//	reload NAME OPTIONS                       new configuration, as in router
//	source NAME ADDRESS
//	adverts                                   show the periodic adverts too
//	status
func (l *lan) command(verb string, args []string) error {
	switch verb {
	case "run":
		d, err := time.ParseDuration(strings.Join(args, ""))
		if err == nil {
			l.run(d)
		}
		return err
	case "heal":
		clear(l.cut)
		return nil
	case "adverts":
		l.adverts = true
		return nil
	case "status":
		for _, h := range l.hosts {
			l.status(h)
		}
		return nil
	case "router":
		return l.router(args)
	}
	if len(args) == 0 {
		return fmt.Errorf("want the name of a router")
	}
	h, err := l.host(args[0])
	if err != nil {
		return err
	}
	args = args[1:]
	rest := strings.Join(args, " ")
	switch verb {
	case "cut":
		if len(args) == 0 {
			return fmt.Errorf("want two names")
		}
		peer, err := l.host(args[0])
		if err != nil {
			return err
		}
		l.cut[[2]string{h.name, peer.name}] = true
		l.cut[[2]string{peer.name, h.name}] = len(args) == 1
		return nil
	case "start":
		h.m, h.told, h.hooks = newMachine(l.t, h.config), map[string]bool{}, nil
		l.m(h, Event{Kind: Startup})
		return nil
	}
	if h.m == nil {
		return fmt.Errorf("%s isn't running", h.name)
	}
	switch verb {
	case "crash":
		h.m, h.stalled, h.waiting = nil, false, nil
	case "stop":
		l.m(h, Event{Kind: Shutdown})
		h.m = nil
	case "stall":
		h.stalled = true
	case "resume":
		h.stalled = false
		for _, f := range h.waiting {
			l.deliver(f)
		}
		h.waiting = nil
	case "priority":
		n, err := strconv.ParseUint(rest, 10, 8)
		if err != nil {
			return err
		}
		l.m(h, Event{Kind: PriorityChanged, Priority: uint8(n)})
	case "fault":
		l.m(h, Event{Kind: FaultRaised, Reason: rest})
	case "clear":
		l.m(h, Event{Kind: FaultCleared, Reason: rest})
	case "lost":
		l.m(h, Event{Kind: AddressLost, Reason: rest})
	case "release":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		l.m(h, Event{Kind: Release, Hold: d})
	case "grant":
		l.m(h, Event{Kind: Granted, Reason: rest})
	case "revoke":
		l.m(h, Event{Kind: Revoked, Reason: rest})
	case "stalled":
		l.m(h, Event{Kind: Stalled, Reason: rest})
	case "source":
		addr, err := netip.ParseAddr(rest)
		if err != nil {
			return err
		}
		h.filter.Source = addr
		l.m(h, Event{Kind: SourceChanged, From: addr})
	case "reload":
		return l.reload(h, args)
	case "hook":
		if len(h.hooks) == 0 {
			return fmt.Errorf("%s was never Active", h.name)
		}
		last := h.hooks[len(h.hooks)-1]
		switch result, reason, _ := strings.Cut(rest, " "); result {
		case "ok":
			l.m(h, Event{Kind: HookSucceeded, Seq: last})
		case "fail":
			l.m(h, Event{Kind: HookFailed, Seq: last, Reason: reason})
		case "late":
			if len(h.hooks) < 2 {
				return fmt.Errorf("%s was Active once", h.name)
			}
			l.m(h, Event{Kind: HookSucceeded, Seq: h.hooks[len(h.hooks)-2]})
		default:
			return fmt.Errorf("want ok, fail or late, got %q", result)
		}
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

// router adds a router: version 3, priority 100, 1 s, and the next free of 10.0.0.1, 10.0.0.2, … unless told otherwise.
func (l *lan) router(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want a name")
	}
	n := byte(len(l.hosts) + 1)
	h := &host{name: args[0], addrs: []netip.Addr{vip}, filter: Filter{Group: group4}}
	h.config = config(func(c *Config) { c.Source = netip.AddrFrom4([4]byte{10, 0, 0, n}) })
	if err := h.configure(args[1:]); err != nil {
		return err
	}
	l.hosts = append(l.hosts, h)
	return nil
}

func (l *lan) reload(h *host, args []string) error {
	if err := h.configure(args); err != nil {
		return err
	}
	return h.m.r.Reconfigure(h.config)
}

// configure reads the options of a router.
func (h *host) configure(args []string) error {
	c, f := &h.config, &h.filter
	for len(args) > 0 {
		option := args[0]
		args = args[1:]
		value, err := "", error(nil)
		switch option {
		case "nopreempt", "higher_prio_send_advert", "lower_prio_no_advert", "vip_after_notify", "ipv6", "v3_checksum_as_v2", "owner_ignore_adverts", "gated":
		default:
			if len(args) == 0 {
				return fmt.Errorf("%s: want a value", option)
			}
			value, args = args[0], args[1:]
		}
		number := func() (n int) {
			n, err = strconv.Atoi(value)
			return n
		}
		duration := func() (d time.Duration) {
			d, err = time.ParseDuration(value)
			return d
		}
		switch option {
		case "version":
			c.Version = Version(number())
		case "priority":
			c.Priority = uint8(number())
		case "interval":
			c.AdvertInterval = duration()
		case "down_timer_adverts":
			c.DownTimerAdverts = number()
		case "nopreempt":
			c.Preempt = false
		case "preempt_delay":
			c.PreemptDelay = duration()
		case "higher_prio_send_advert":
			c.HigherPrioSendAdvert = true
		case "lower_prio_no_advert":
			c.LowerPrioNoAdvert = true
		case "owner_ignore_adverts":
			f.IgnoreAdverts = true
		case "vip_after_notify":
			c.AddressesAfterNotify = true
		case "notify_retry":
			c.NotifyRetry = duration()
		case "gated":
			c.Gated = true
		case "address":
			c.Source, err = netip.ParseAddr(value)
		case "ipv6":
			b := link1.As16()
			v4 := c.Source.As4()
			b[15] = v4[3]
			c.Source, f.IPv6, f.Group, h.addrs = netip.AddrFrom16(b), true, group6, []netip.Addr{vip6}
		case "password":
			f.AuthType, f.Auth = AuthPassword, Password(value)
		case "v3_checksum_as_v2":
			f.Checksum = ChecksumPlain
		default:
			return fmt.Errorf("no such option %q", option)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
	}
	f.Version, f.VRID, f.Interval, f.Source, f.Owner, f.Addrs = c.Version, c.VRID, c.AdvertInterval, c.Source, c.Priority == PriorityOwner, h.addrs
	_, err := NewRouter(*c)
	return err
}

// m steps the router of h and carries its actions out.
func (l *lan) m(h *host, ev Event) {
	l.t.Helper()
	h.m.now = l.now
	before := h.m.r.State()
	lines := h.m.step(ev)
	if h.m.r.State() == Active && before != Active {
		h.hooks = append(h.hooks, h.m.r.Seq())
	}
	periodic := ev.Kind == Tick && len(lines) == 1 && h.m.did[0].Kind == SendAdvert
	for i, a := range h.m.did {
		if !periodic || l.adverts {
			l.print(h, "%s", lines[i])
		}
		if a.Kind == SendAdvert {
			l.send(h, a.Priority)
		}
	}
}

func (l *lan) send(h *host, priority uint8) {
	a := Advert{
		Version: h.config.Version, VRID: h.config.VRID, Priority: priority, AuthType: h.filter.AuthType, Auth: h.filter.Auth,
		Interval: h.config.AdvertInterval, Addrs: h.addrs,
	}
	b, err := AppendAdvert(nil, &a, h.filter.Source, h.filter.Group, h.filter.Checksum)
	if err != nil {
		l.t.Fatalf("%s: %v", h.name, err)
	}
	for _, to := range l.hosts {
		if to != h && !l.cut[[2]string{h.name, to.name}] {
			p := Packet{Payload: b, Src: h.filter.Source, Dst: h.filter.Group, TTL: TTL}
			l.flying = append(l.flying, flight{at: l.now.Add(latency), to: to, from: h.name, packet: p})
		}
	}
}

// deliver hands a packet to the host's filter, and from there to its router. What is odd is told once per sender.
func (l *lan) deliver(f flight) {
	h := f.to
	switch {
	case h.m == nil:
		return
	case h.stalled:
		h.waiting = append(h.waiting, f)
		return
	}
	var a Advert
	warn, r := h.filter.Check(&a, f.packet)
	once := func(what, text string) {
		if key := f.from + " " + what; !h.told[key] {
			h.told[key] = true
			l.print(h, "%s: %s", what, text)
		}
	}
	if r != Accepted {
		once("rejects ("+r.String()+")", h.filter.Explain(f.packet, r))
		return
	}
	if warn != 0 {
		once("warns", h.filter.ExplainWarnings(&a, f.packet.Src, warn))
	}
	l.m(h, Event{Kind: Received, From: f.packet.Src, Priority: a.Priority, Interval: a.Interval})
}

// run lets time pass from event to event; a packet goes before a timer of the same instant.
func (l *lan) run(d time.Duration) {
	end := l.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 1_000_000 {
			l.t.Fatalf("a million events in %v: the routers don't come to rest", d)
		}
		next := end
		var timer *host
		packet := -1
		for i, f := range l.flying {
			if f.at.Before(next) || packet < 0 && !f.at.After(next) {
				next, packet = f.at, i
			}
		}
		for _, h := range l.hosts {
			if h.m == nil || h.stalled {
				continue
			}
			if at := h.m.r.Deadline(); !at.IsZero() && (at.Before(next) || packet < 0 && timer == nil && !at.After(next)) {
				next, timer = at, h
			}
		}
		if next.After(l.now) {
			l.now = next
		}
		switch {
		case timer != nil:
			l.m(timer, Event{Kind: Tick})
		case packet >= 0:
			f := l.flying[packet]
			l.flying = slices.Delete(l.flying, packet, packet+1)
			l.deliver(f)
		default:
			return
		}
	}
}

func (l *lan) status(h *host) {
	if h.m == nil {
		l.print(h, "is down")
		return
	}
	r := h.m.r
	s := fmt.Sprintf("is %v, priority %d", r.State(), r.EffectivePriority())
	if h.m.added {
		s += ", has the addresses"
	}
	if r.AddressesWait() {
		s += ", addresses wait"
	}
	if h.stalled {
		s += ", stalled"
	}
	if r.State() == Backup {
		s += fmt.Sprintf(", adverts every %v", r.MasterInterval())
	}
	if reason := r.FaultReason(); reason != "" {
		s += ", fault: " + reason
	}
	if at := r.Deadline(); !at.IsZero() {
		s += fmt.Sprintf(", timer at %.3fs", at.Sub(epoch).Seconds())
	}
	if until := r.HeldUntil(); until.After(l.now) {
		s += fmt.Sprintf(", held until %.3fs", until.Sub(epoch).Seconds())
		if r.cfg.Gated {
			s += " (" + r.HoldReason() + ")"
		}
	}
	l.print(h, "%s", s)
}

// TestStoryCommands: a story that says nonsense fails, it doesn't pass by.
func TestStoryCommands(t *testing.T) {
	for _, line := range []string{
		"walk a", "start", "start b", "run soon", "router", "router c priority", "router c priority x", "router c priority 0",
		"router c speed 9", "priority a 1", "release a 1s", "cut a", "hook a maybe",
		"stop a", "cut a b",
	} {
		l := newLAN(t)
		if err := l.command("router", []string{"a"}); err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(line)
		if err := l.command(words[0], words[1:]); err == nil {
			t.Errorf("%q: got no error", line)
		}
	}
}
