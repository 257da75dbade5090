package data

import (
	"errors"
	"slices"
	"time"

	"pgvrrp/internal/agent/core"
)

// The abstract PostgreSQL: WAL is a list of records, which have one length. A record has its timeline and is the only one of its
// number, so that two servers have the same WAL up to a place if they have the same record there.

type rec struct {
	tli uint32
	id  uint32 // unique
}

// recordLen is the length of every record, in which a server may stop.
const recordLen = 8

// lsn is where the WAL of n records ends.
func lsn(n int) uint64 { return recordLen * uint64(n) }

// wal is a server's WAL with its history.
type wal struct {
	recs  []rec
	forks []core.Fork
}

func (w *wal) tli() uint32 {
	if len(w.recs) == 0 {
		return 0
	}
	return w.recs[len(w.recs)-1].tli
}

func (w *wal) add(r rec) {
	if n := len(w.recs); n > 0 && w.recs[n-1].tli != r.tli {
		w.forks = append(w.forks[:len(w.forks):len(w.forks)], core.Fork{TLI: w.recs[n-1].tli, LSN: lsn(n)})
	}
	w.recs = append(w.recs, r)
}

func (w *wal) cut(n int) {
	if n >= len(w.recs) {
		return
	}
	w.recs = w.recs[:n]
	for len(w.forks) > 0 && w.forks[len(w.forks)-1].LSN >= lsn(n) {
		w.forks = w.forks[:len(w.forks)-1]
	}
}

func (w *wal) copyOf(o *wal, n int) {
	w.recs = append(w.recs[:0], o.recs[:n]...)
	w.forks = nil
	for _, f := range o.forks {
		if f.LSN < lsn(n) {
			w.forks = append(w.forks, f)
		}
	}
}

// has reports whether the record at index k is r.
func (w *wal) has(k int, r rec) bool { return k < len(w.recs) && w.recs[k] == r }

// include is our include file.
type include struct {
	ssn      core.SSN
	conninfo string
}

// disk is what survives in a data directory, and what of it is fsynced.
type disk struct {
	none       bool
	garbage    bool // in the middle of a rewind
	wal        wal
	durable    int             // records that are flushed
	files      map[uint32]bool // history files; true: with a line in it
	file       include
	synced     include     // the part of file that is on disk
	clean      bool        // the last shutdown
	minimum    int         // consistent from here on,
	minHistory []core.Fork // of minTLI
	minTLI     uint32      // on this timeline or a descendant that branched off later
	system     uint64
	removed    int // WAL below this is gone: a standby that needs it can't stream
}

// postgres is a running server.
type postgres struct {
	pm        uint64 // 0: down
	started   int64
	answering bool
	primary   bool
	closing   bool
	conf      include // of the postmaster: what a new process has
	flag      bool    // the checkpointer's word to all backends: wait
	released  int     // position up to which waiting commits were let go
	waiting   []*commit
	senders   []*conn
	receiver  *conn
	ready     bool // for a rewind
}

// conn is a stream, seen from both ends.
type conn struct {
	up, down     *node
	upPM, downPM uint64
	closedUp     bool
	closedDown   bool
	unseen       bool // its end does not reach the primary
	stuck        bool // it can't get beyond the place where its WAL ends
	cfg          core.SSN
	priority     int
	streaming    bool
	valid        bool // a reply has come
	sent, flush  int
	busy         bool
	last         int64 // when it last worked
}

// commit is a client's.
type commit struct {
	at    int // index
	r     rec
	acked bool
	epoch uint64
}

var errDown = errors.New("the server does not answer")

// broken reports whether the WAL leaves the timeline of the minimum recovery point before that: the server panics there.
func (d *disk) broken() bool {
	k := min(len(d.wal.recs), d.minimum)
	return k > 0 && d.minTLI != 0 && d.wal.recs[k-1].tli > d.minTLI
}

// startPG reads the files.
func (n *node) startPG() {
	s := n.s
	d := &n.disk
	if d.garbage {
		s.fail("%s starts a half rewound data directory", n.name)
	}
	s.pms++
	n.pg, n.archives = postgres{pm: s.pms, started: s.now, conf: d.file}, 0
	n.pg.flag = d.file.ssn.String() != ""
	d.clean = false
	n.pg.answering = len(d.wal.recs) >= d.minimum && d.beyond() == 0
	s.trace("%s: PostgreSQL %d starts as a standby at %d of timeline %d", n.name, n.pg.pm, len(d.wal.recs), d.wal.tli())
	n.connect(s.r.Between(time.Millisecond, 20*time.Millisecond))
}

// stopPG ends the server; WAL that was not written goes unless clean.
func (n *node) stopPG(clean bool) {
	p := &n.pg
	if p.pm == 0 {
		return
	}
	n.s.trace("%s: PostgreSQL %d is down", n.name, p.pm)
	if p.primary && !clean {
		n.truncate(n.disk.durable + n.s.r.Intn(len(n.disk.wal.recs)-n.disk.durable+1))
	}
	if clean {
		n.disk.durable = len(n.disk.wal.recs)
	}
	n.disk.clean = clean
	for _, c := range p.senders {
		n.s.closeUp(c)
	}
	if c := p.receiver; c != nil {
		n.s.closeDown(c, true)
	}
	n.pg = postgres{}
}

// truncate loses the end of the WAL.
func (n *node) truncate(k int) {
	if k >= len(n.disk.wal.recs) {
		return
	}
	n.disk.wal.cut(k)
	n.disk.durable = min(n.disk.durable, k)
	n.s.checkHas(n, "after losing the end of its WAL")
}

// closeUp is seen by the standby soon, if it can see anything.
func (s *Sim) closeUp(c *conn) {
	if c.closedUp {
		return
	}
	c.closedUp = true
	d := s.r.Between(200*time.Microsecond, 3*time.Millisecond)
	if !s.linked(c.up, c.down) {
		d = s.r.Between(500*time.Millisecond, 2*time.Second)
	}
	s.at(d, func() { s.closeDown(c, false) })
}

// closeDown ends the walreceiver. Replies on their way still come.
func (s *Sim) closeDown(c *conn, silent bool) {
	if c.closedDown {
		return
	}
	c.closedDown = true
	n := c.down
	if n.pg.receiver == c {
		n.pg.receiver = nil
		if n.pg.pm == c.downPM && n.up {
			n.disk.durable = len(n.disk.wal.recs) // a walreceiver flushes when it ends
		}
		if !silent {
			n.connect(s.r.Between(5*time.Millisecond, 100*time.Millisecond))
		}
	}
	d := s.r.Soon(500*time.Microsecond, 5*time.Millisecond, 100*time.Millisecond)
	if !s.linked(c.up, c.down) || !c.down.up || c.unseen {
		d = s.r.Between(time.Second, 2*time.Second)
	}
	s.at(d, func() { s.dropSender(c) })
}

// breakDown ends the walreceiver; the walsender waits for its timeout.
func (s *Sim) breakDown(c *conn) {
	c.unseen = true
	s.closeDown(c, false)
}

func (s *Sim) dropSender(c *conn) {
	c.closedUp = true
	if c.up.pg.pm == c.upPM {
		p := &c.up.pg
		p.senders = slices.DeleteFunc(p.senders, func(x *conn) bool { return x == c })
	}
}

// connect has the walreceiver try after d.
func (n *node) connect(d time.Duration) {
	pm := n.pg.pm
	n.tries++
	try := n.tries
	n.s.at(d, func() {
		if n.pg.pm == pm && pm != 0 && n.tries == try && !n.pg.primary && n.pg.receiver == nil && n.pg.conf.conninfo != "" {
			n.tryConnect()
		}
	})
}

func (n *node) tryConnect() {
	s := n.s
	up := s.node(n.pg.conf.conninfo)
	again := s.r.Soon(20*time.Millisecond, 110*time.Millisecond, time.Second)
	if up == nil || up == n || up.pg.pm == 0 || !up.pg.answering || up.pg.closing || !s.linked(n, up) || !up.up {
		n.connect(again)
		return
	}
	if !s.plant.NoSlots && slices.ContainsFunc(up.pg.senders, func(c *conn) bool { return c.down == n }) {
		// The slot is still in use by the walsender of an older connection. Two of one name would count as two in FIRST n.
		n.connect(again)
		return
	}
	mine, theirs := &n.disk.wal, &up.disk.wal
	if b := n.disk.beyond(); b != 0 && b != theirs.tli() {
		if _, ok := forkAt(theirs, b); !ok { // no child of the timeline that it goes by
			n.connect(again)
			return
		}
	}
	tli, at := mine.tli(), len(mine.recs)
	for t := tli + 1; t <= theirs.tli(); t++ {
		if _, ok := up.disk.files[t]; !ok {
			s.trace("%s: history file %d is missing on %s", n.name, t, up.name)
			n.connect(again)
			return
		}
	}
	c := &conn{up: up, down: n, upPM: up.pg.pm, downPM: n.pg.pm, cfg: up.pg.conf.ssn, last: s.now}
	switch f, ok := forkAt(theirs, tli); {
	case tli == theirs.tli() && at <= up.disk.durable, ok && at <= f:
		if at < up.disk.removed {
			n.connect(again)
			return
		}
		if !theirs.has(at-1, mine.recs[at-1]) {
			s.fail("%s at %d of timeline %d streams from %s, which has another record there", n.name, at, tli, up.name)
		}
		c.sent = at
	case ok:
		// It begins at the start of a segment, reports where it replayed to, and gets no further than the switch point.
		c.stuck, c.sent = true, f
		s.at(s.r.Between(5*time.Millisecond, 60*time.Millisecond), func() { s.closeDown(c, false) })
	default:
		n.connect(again)
		return
	}
	if !c.stuck {
		for t := tli + 1; t <= theirs.tli(); t++ {
			n.disk.files[t] = up.disk.files[t]
		}
	}
	c.setPriority()
	n.pg.receiver = c
	up.pg.senders = append(up.pg.senders, c)
	// The first reply tells where it replayed to, whatever that is.
	s.reply(c, at)
	s.pump(c)
}

func forkAt(w *wal, tli uint32) (int, bool) {
	for _, f := range w.forks {
		if f.TLI == tli {
			return int(f.LSN / recordLen), true
		}
	}
	return 0, false
}

func (c *conn) setPriority() {
	c.priority = slices.Index(c.cfg.Names, c.down.name) + 1
}

// open reports whether both ends are of the servers that made it.
func (c *conn) open() bool {
	return !c.closedUp && !c.closedDown && c.up.pg.pm == c.upPM && c.down.pg.pm == c.downPM
}

// pump sends what the standby lacks; there is one batch on its way at a time.
func (s *Sim) pump(c *conn) {
	if c.busy || !c.open() || c.stuck {
		return
	}
	up := c.up
	if c.sent >= up.disk.durable {
		if !c.streaming {
			c.streaming = true
			s.release(c)
			s.status(c)
		}
		return
	}
	c.busy = true
	from, to := c.sent, min(up.disk.durable, c.sent+64)
	c.sent = to
	batch := slices.Clone(up.disk.wal.recs[from:to])
	d := s.r.Soon(100*time.Microsecond, time.Millisecond, 20*time.Millisecond)
	if !c.streaming && c.down.disk.beyond() != 0 {
		d += time.Duration(c.down.tries%4) * 20 * time.Millisecond // what the new timeline's first segment has of the old one comes first
	}
	s.carry(c, d, func() {
		if c.closedDown || c.down.pg.pm != c.downPM || c.down.pg.receiver != c {
			return
		}
		n := c.down
		if len(n.disk.wal.recs) != from {
			s.fail("%s receives from %d and is at %d", n.name, from, len(n.disk.wal.recs))
			return
		}
		for _, r := range batch {
			if r.tli != n.disk.wal.tli() {
				n.disk.files[r.tli] = true
			}
			n.disk.wal.add(r)
		}
		if n.disk.broken() {
			n.disk.durable = len(n.disk.wal.recs)
			s.reply(c, n.disk.durable) // the walreceiver is ahead of the startup process
			s.trace("%s: PostgreSQL panics: another timeline before the minimum recovery point", n.name)
			n.stopPG(false)
			s.checkHas(n, "as it can't be recovered")
			return
		}
		if !n.pg.answering && to >= n.disk.minimum {
			n.pg.answering = true
		}
		s.at(s.r.Soon(200*time.Microsecond, 2*time.Millisecond, 100*time.Millisecond), func() {
			if c.down.pg.pm != c.downPM || c.down.pg.receiver != c {
				return
			}
			n.disk.durable = max(n.disk.durable, min(to, len(n.disk.wal.recs)))
			s.reply(c, n.disk.durable)
			for _, d := range n.pg.senders {
				s.pump(d)
			}
			c.busy = false
			s.pump(c)
		})
	})
}

// status has the walreceiver reply each second, whatever happens (wal_receiver_status_interval).
func (s *Sim) status(c *conn) {
	s.at(time.Second, func() {
		if c.open() {
			s.reply(c, c.down.disk.durable)
			s.status(c)
		}
	})
}

// reply tells the primary what the standby has flushed. It stays on its way, and counts, even if the standby goes.
func (s *Sim) reply(c *conn, flush int) {
	s.carry(c, s.r.Soon(100*time.Microsecond, time.Millisecond, 200*time.Millisecond), func() {
		if c.closedUp || c.up.pg.pm != c.upPM {
			return
		}
		c.flush, c.valid = max(c.flush, flush), true
		s.release(c)
	})
}

// carry moves something over the network once it can; a stream that is cut off for long ends.
func (s *Sim) carry(c *conn, d time.Duration, fn func()) {
	s.at(d, func() {
		if s.linked(c.up, c.down) {
			c.last = s.now
			fn()
			return
		}
		if s.now-c.last > int64(2*time.Second) {
			s.closeDown(c, false)
			return
		}
		if c.closedUp && c.closedDown {
			return
		}
		s.carry(c, 30*time.Millisecond, fn)
	})
}

// release is SyncRepReleaseWaiters in the walsender of c: with its own copy of the configuration, over the priorities that all
// walsenders have set.
func (s *Sim) release(c *conn) {
	p := &c.up.pg
	need := len(c.cfg.Names)
	if c.cfg.Hold {
		need++
	}
	if c.priority == 0 || need == 0 || !c.streaming && !c.stuck {
		return
	}
	var all []*conn
	for _, x := range p.senders {
		if x.priority > 0 && x.valid && (x.streaming || x.stuck) {
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(a, b *conn) int { return a.priority - b.priority })
	if len(all) < need {
		return
	}
	all = all[:need]
	if !slices.Contains(all, c) {
		return
	}
	low := all[0].flush
	for _, x := range all {
		low = min(low, x.flush)
	}
	if low <= p.released {
		return
	}
	if s.tracing() {
		for _, x := range all {
			s.trace("%s: release to %d by %s: %s priority %d stuck %v flush %d sent %d pm %d", c.up.name, low, c.down.name, x.down.name, x.priority, x.stuck, x.flush, x.sent, x.downPM)
		}
	}
	p.released = low
	p.waiting = slices.DeleteFunc(p.waiting, func(k *commit) bool {
		if k.at < low {
			s.ack(c.up, k)
			return true
		}
		return false
	})
}

// reload lets the running processes take up the include file, each in its own time.
func (n *node) reload() {
	s, pm := n.s, n.pg.pm
	if pm == 0 {
		return
	}
	n.pg.conf = n.disk.file
	for _, c := range n.pg.senders {
		s.at(s.r.Soon(200*time.Microsecond, 20*time.Millisecond, 400*time.Millisecond), func() {
			if n.pg.pm == pm && !c.closedUp {
				c.cfg = n.pg.conf.ssn
				c.setPriority()
				s.release(c)
			}
		})
	}
	s.at(s.r.Soon(200*time.Microsecond, 20*time.Millisecond, 600*time.Millisecond), func() {
		if n.pg.pm != pm {
			return
		}
		n.pg.flag = n.pg.conf.ssn.String() != ""
		if !n.pg.flag {
			waiting := n.pg.waiting
			n.pg.waiting = nil
			for _, k := range waiting {
				s.ack(n, k)
			}
		}
	})
	c := n.pg.receiver
	if c != nil && n.pg.conf.conninfo != c.up.name {
		s.closeDown(c, true)
	}
	if n.pg.conf.conninfo != "" && n.pg.receiver == nil {
		n.connect(s.r.Between(5*time.Millisecond, 40*time.Millisecond))
	}
}

// write appends a record on the primary and flushes it; a commit is acknowledged or waits after that.
func (n *node) write(k *commit) int {
	s := n.s
	s.ids++
	r := rec{n.disk.wal.tli(), s.ids}
	n.disk.wal.add(r)
	at := len(n.disk.wal.recs) - 1
	if k != nil {
		k.at, k.r = at, r
	}
	pm := n.pg.pm
	s.at(s.r.Soon(200*time.Microsecond, 2*time.Millisecond, 100*time.Millisecond), func() {
		if n.pg.pm != pm {
			return
		}
		if n.disk.durable < at+1 {
			n.disk.durable = at + 1
			for _, c := range n.pg.senders {
				s.pump(c)
			}
		}
		if k == nil || n.pg.closing {
			return
		}
		if !n.pg.flag || at < n.pg.released {
			s.ack(n, k)
		} else {
			n.pg.waiting = append(n.pg.waiting, k)
		}
	})
	return at + 1
}

// nextTimeline is findNewestTimeLine + 1: the first number above the server's own without a history file.
func (d *disk) nextTimeline() uint32 {
	t := d.wal.tli()
	for {
		t++
		if _, ok := d.files[t]; !ok {
			return t
		}
	}
}

// beyond is the newest timeline that there is a history of and no record, 0 if there is none: its primary went before it had sent any. A running
// server goes by it, and finds nothing behind the place where it begins.
func (d *disk) beyond() (newest uint32) {
	for t, lines := range d.files {
		if lines && t > max(d.wal.tli(), d.minTLI, newest) {
			newest = t
		}
	}
	return newest
}

// setAside takes out what there is of timelines without a record.
func (d *disk) setAside() {
	for b := d.beyond(); b != 0; b = d.beyond() {
		delete(d.files, b)
	}
}

// sweep removes reserved files above the highest real timeline.
func (d *disk) sweep() {
	for t, lines := range d.files {
		if !lines && t > d.wal.tli() {
			delete(d.files, t)
		}
	}
}

// half is what a standby has received of the next record, now and then; it is gone with its postmaster.
func (n *node) half() uint64 {
	if n.pg.primary || (n.disk.durable+int(n.pg.pm))%3 != 0 {
		return 0
	}
	return recordLen / 2
}

// facts is one look at the server.
func (n *node) facts() *core.Server {
	d, p := &n.disk, &n.pg
	f := &core.Server{At: time.Duration(n.s.now), NoData: d.none, Running: p.pm != 0, Answering: p.answering, Postmaster: p.pm, InRecovery: !p.primary,
		Clean: d.clean, SystemID: d.system}
	if d.none {
		return f
	}
	f.History = d.wal.forks
	f.Pos, f.Whole = core.Position{TLI: d.wal.tli(), LSN: lsn(d.durable)}, lsn(d.durable)
	if d.minimum > d.durable {
		f.Pos = core.Position{TLI: d.minTLI, LSN: lsn(d.minimum)} // as the control file says
		f.History = d.minHistory
	}
	f.Archives = p.pm == 0 && n.archives > n.s.now
	f.Idle = !n.s.plant.NeverWaits && p.pm != 0 && !p.answering && (p.receiver == nil || p.receiver.stuck)
	f.Waits = f.Idle && n.s.now > p.started+int64(time.Second)
	if p.pm == 0 || !p.answering {
		return f
	}
	f.Pos.LSN += n.half()
	if n.s.plant.HalfRecords {
		f.Whole = f.Pos.LSN
	}
	f.SSN, f.Conninfo = n.s.plant.shown(n).String(), p.conf.conninfo
	if c := p.receiver; c != nil && !c.stuck {
		f.Upstream = c.up.name
	}
	for _, c := range p.senders {
		flush := c.flush
		if !c.valid {
			flush = 0
		}
		f.Standbys = append(f.Standbys, core.Standby{Name: c.down.name, Streaming: c.streaming || c.stuck, Sent: lsn(n.s.plant.sent(c)), Flush: lsn(flush), Priority: c.priority})
	}
	if p.primary {
		f.RewindReady = p.ready
	}
	return f
}
