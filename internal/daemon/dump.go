package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/files"
)

// The signals on which keepalived writes what it knows into files (keepalived(8), SIGNALS). Real-time signals are counted from
// glibc's SIGRTMIN, 34, and to SIGRTMAX, 64.
const (
	signalData       = syscall.SIGUSR1
	signalStats      = syscall.SIGUSR2
	signalJSON       = syscall.Signal(36) // SIGRTMIN+2
	signalStatsClear = syscall.Signal(63) // SIGRTMAX-1
)

// dumpMode is the mode of the files when umask is not given: they tell nothing secret, and nothing to everybody.
const dumpMode = 0o640

// dumper writes keepalived's files for programs that read those.
type dumper struct {
	d       *Daemon
	cleared map[string]dumpStats // what the counters were at the last clearing, by instance
}

// dumps writes files on signals until ctx ends. It is a task of its own: a slow disk holds nothing up but the next file.
func (d *Daemon) dumps(ctx context.Context) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, signalData, signalStats, signalJSON, signalStatsClear)
	defer signal.Stop(signals)
	w := &dumper{d: d, cleared: map[string]dumpStats{}}
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			path, err := w.write(s)
			if err != nil {
				d.log.Error("write what a signal asks for", "signal", s.String(), "error", err)
				continue
			}
			d.log.Info("wrote what a signal asks for", "signal", s.String(), "file", path)
		}
	}
}

// write answers one signal.
func (w *dumper) write(s os.Signal) (path string, err error) {
	v := w.d.view()
	g := &v.config.Globals
	var text []byte
	switch s {
	case signalData:
		path, text = dumpFile(w.d.opt.RunDir, g.StateDumpFile, "keepalived.data", dumpSuffix(g)), v.data()
	case signalJSON:
		path = dumpFile(w.d.opt.RunDir, g.JSONDumpFile, "keepalived.json", "")
		if text, err = v.json(w.cleared); err != nil {
			return path, err
		}
	default:
		path, text = dumpFile(w.d.opt.RunDir, g.StatsDumpFile, "keepalived.stats", ""), v.stats(w.cleared)
		if s == signalStatsClear {
			for k := range v.instances {
				i := &v.instances[k]
				w.cleared[i.config.Name] = statsOf(&i.status)
			}
		}
	}
	mode := os.FileMode(dumpMode)
	if g.Umask >= 0 {
		mode = 0o666 &^ os.FileMode(g.Umask)
	}
	// In /tmp everybody can plant a link of that name, or have it open.
	return path, files.Replace(path, text, mode, files.Options{})
}

// dumpFile is where a file goes: what the keyword says, in the run directory if that is no absolute path, and under its usual name
// if it is a directory (with a slash at its end). keepalived's own place is /tmp.
func dumpFile(runDir, keyword, usual, suffix string) string {
	switch {
	case keyword == "":
		keyword = usual
	case strings.HasSuffix(keyword, "/"):
		keyword += usual
	}
	if !filepath.IsAbs(keyword) {
		keyword = filepath.Join(runDir, keyword)
	}
	if suffix == "" {
		return keyword
	}
	ext := filepath.Ext(keyword)
	return strings.TrimSuffix(keyword, ext) + "." + suffix + ext
}

// dumpSuffix is data_use_instance: keepalived puts it into the name of the data file alone.
func dumpSuffix(g *conf.Globals) string {
	if !g.DataUseInstance {
		return ""
	}
	return strings.Join(slices.DeleteFunc([]string{g.NetNamespace, g.InstanceName}, func(s string) bool { return s == "" }), "_")
}

// dumpView is what the files tell, at one moment.
type dumpView struct {
	config    *conf.Config
	router    string // router_id
	instances []viewed
	groups    []control.Group
	scripts   []control.Script
}

type viewed struct {
	config conf.Instance
	status control.Instance
}

func (d *Daemon) view() *dumpView {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &dumpView{config: d.config, router: d.config.Globals.RouterID, groups: d.groups.status()}
	if v.router == "" {
		v.router = hostName()
	}
	if d.checks != nil {
		v.scripts = d.checks.status()
	}
	for _, u := range d.units {
		v.instances = append(v.instances, viewed{u.config, u.instance.Status()})
	}
	return v
}

// dumpStats are keepalived's counters, in the order and by the names of its JSON.
type dumpStats struct {
	AdvertRcvd        uint64 `json:"advert_rcvd"`
	AdvertSent        uint64 `json:"advert_sent"`
	BecomeMaster      uint64 `json:"become_master"`
	ReleaseMaster     uint64 `json:"release_master"`
	PacketLenErr      uint64 `json:"packet_len_err"`
	AdvertIntervalErr uint64 `json:"advert_interval_err"`
	IPTTLErr          uint64 `json:"ip_ttl_err"`
	InvalidTypeRcvd   uint64 `json:"invalid_type_rcvd"`
	AddrListErr       uint64 `json:"addr_list_err"`
	InvalidAuthtype   uint64 `json:"invalid_authtype"`
	AuthtypeMismatch  uint64 `json:"authtype_mismatch"`
	AuthFailure       uint64 `json:"auth_failure"`
	PriZeroRcvd       uint64 `json:"pri_zero_rcvd"`
	PriZeroSent       uint64 `json:"pri_zero_sent"`
}

// statsOf counts as keepalived does. It tells a kind of authentication that does not exist from one that is not ours; we don't,
// and count both as a mismatch.
func statsOf(i *control.Instance) dumpStats {
	c, rejected := &i.Counters, i.Counters.Rejected
	return dumpStats{
		AdvertRcvd: c.AdvertsReceived, AdvertSent: c.AdvertsSent, BecomeMaster: c.BecameMaster, ReleaseMaster: c.LeftMaster,
		PacketLenErr: rejected["too_short"] + rejected["length"], AdvertIntervalErr: rejected["interval"], IPTTLErr: rejected["ttl"],
		InvalidTypeRcvd: rejected["type"], AddrListErr: c.AddressMismatches, AuthtypeMismatch: rejected["auth_type"], AuthFailure: rejected["auth"],
		PriZeroRcvd: c.PriorityZeroReceived, PriZeroSent: c.PriorityZeroSent,
	}
}

// since leaves out what was counted before the last clearing.
func (s dumpStats) since(before dumpStats) dumpStats {
	for _, p := range [][2]*uint64{
		{&s.AdvertRcvd, &before.AdvertRcvd}, {&s.AdvertSent, &before.AdvertSent}, {&s.BecomeMaster, &before.BecomeMaster},
		{&s.ReleaseMaster, &before.ReleaseMaster}, {&s.PacketLenErr, &before.PacketLenErr}, {&s.AdvertIntervalErr, &before.AdvertIntervalErr},
		{&s.IPTTLErr, &before.IPTTLErr}, {&s.InvalidTypeRcvd, &before.InvalidTypeRcvd}, {&s.AddrListErr, &before.AddrListErr},
		{&s.InvalidAuthtype, &before.InvalidAuthtype}, {&s.AuthtypeMismatch, &before.AuthtypeMismatch}, {&s.AuthFailure, &before.AuthFailure},
		{&s.PriZeroRcvd, &before.PriZeroRcvd}, {&s.PriZeroSent, &before.PriZeroSent},
	} {
		if *p[1] <= *p[0] { // else the instance was made anew, and counts from 0
			*p[0] -= *p[1]
		}
	}
	return s
}

// extensionErrors are the counters of auth_hmac, which keepalived has since 2.4, by the names of its file.
var extensionErrors = []struct{ name, reason string }{
	{"Missing", "auth_missing"}, {"Malformed", "auth_malformed"}, {"Unknown Key", "auth_key"}, {"Invalid HMAC", "auth_hmac"},
	{"Stale", "auth_stale"}, {"Replay", "auth_replay"},
}

// stats is keepalived.stats.
func (v *dumpView) stats(cleared map[string]dumpStats) []byte {
	var b strings.Builder
	for k := range v.instances {
		i := &v.instances[k]
		s := statsOf(&i.status).since(cleared[i.config.Name])
		fmt.Fprintf(&b, "VRRP Instance: %s\n  Advertisements:\n    Received: %d\n    Sent: %d\n  Became master: %d\n  Released master: %d\n",
			i.config.Name, s.AdvertRcvd, s.AdvertSent, s.BecomeMaster, s.ReleaseMaster)
		fmt.Fprintf(&b, "  Packet Errors:\n    Length: %d\n    TTL: %d\n    Invalid Type: %d\n    Advertisement Interval: %d\n    Address List: %d\n",
			s.PacketLenErr, s.IPTTLErr, s.InvalidTypeRcvd, s.AdvertIntervalErr, s.AddrListErr)
		fmt.Fprintf(&b, "  Authentication Errors:\n    Invalid Type: %d\n    Type Mismatch: %d\n    Failure: %d\n", s.InvalidAuthtype, s.AuthtypeMismatch, s.AuthFailure)
		if len(i.config.HMAC.Keys) > 0 {
			b.WriteString("  Authentication Extension Errors:\n")
			for _, e := range extensionErrors {
				fmt.Fprintf(&b, "    %s: %d\n", e.name, i.status.Counters.Rejected[e.reason])
			}
		}
		fmt.Fprintf(&b, "  Priority Zero:\n    Received: %d\n    Sent: %d\n", s.PriZeroRcvd, s.PriZeroSent)
	}
	return []byte(b.String())
}

// dumpStates are keepalived's numbers.
var dumpStates = map[string]int{control.StateInit: 0, control.StateBackup: 1, control.StateMaster: 2, control.StateFault: 3}

// quoted is a command as keepalived prints it.
func quoted(argv []string) string {
	words := make([]string, len(argv))
	for k, w := range argv {
		words[k] = "'" + w + "'"
	}
	return strings.Join(words, " ")
}

// addressText is a virtual address as keepalived prints it.
func addressText(a *conf.Address, held bool) string {
	var b strings.Builder
	text := a.Prefix.String()
	if a.Peer.IsValid() || a.Prefix.IsSingleIP() {
		text = a.Prefix.Addr().String()
	}
	b.WriteString(text)
	if a.Broadcast.IsValid() {
		fmt.Fprintf(&b, " brd %s", a.Broadcast)
	}
	fmt.Fprintf(&b, " dev %s", a.Interface)
	if a.VMAC {
		b.WriteString(" use_vmac")
	}
	fmt.Fprintf(&b, " scope %s", scopeText(a.Scope))
	if a.Label != "" {
		fmt.Fprintf(&b, " label %s", a.Label)
	}
	if a.Peer.IsValid() {
		fmt.Fprintf(&b, " peer %s", a.Peer)
	}
	for _, f := range []struct {
		on   bool
		word string
	}{{a.Home, "home"}, {a.NoDAD, "-nodad"}, {a.MngTmpAddr, "mngtmpaddr"}, {a.NoPrefixRoute, "noprefixroute"}, {a.AutoJoin, "autojoin"}, {a.NoTrack, "no_track"}} {
		if f.on {
			b.WriteString(" " + f.word)
		}
	}
	if a.Prefix.Addr().Is6() {
		switch {
		case a.PreferredLft == 0 || a.PreferredLft == -2 && a.Prefix.IsSingleIP():
			b.WriteString(" deprecated")
		case a.PreferredLft < 0:
			b.WriteString(" preferred_lft forever")
		default:
			fmt.Fprintf(&b, " preferred_lft %d", a.PreferredLft)
		}
	}
	if held {
		b.WriteString(" set")
	}
	return b.String()
}

// scopeText names an rtnetlink scope as ip(8) does.
func scopeText(scope uint8) string {
	if name := map[uint8]string{0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}[scope]; name != "" {
		return name
	}
	return fmt.Sprint(scope)
}

// addresses are lists of an instance as keepalived prints them; all says whether each of vips is held.
func (i *viewed) addresses() (vips, excluded []string, all bool) {
	held := map[string]bool{}
	for _, a := range i.status.Addresses {
		held[a.Address+" "+a.Interface] = a.Held
	}
	all = len(i.config.Addresses)+len(i.config.Excluded) > 0
	text := func(list []conf.Address) (out []string) {
		for k := range list {
			h := held[list[k].Prefix.String()+" "+list[k].Interface]
			all = all && h
			out = append(out, addressText(&list[k], h))
		}
		return out
	}
	vips, excluded = text(i.config.Addresses), text(i.config.Excluded)
	return vips, excluded, all
}

// dumpTime is a time as keepalived prints it.
func dumpTime(t time.Time) string {
	return fmt.Sprintf("%d.%06d (%s)", t.Unix(), t.Nanosecond()/1000, t.Format("Mon Jan _2 15:04:05.000000 2006"))
}
