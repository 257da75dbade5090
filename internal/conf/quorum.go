package conf

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// GuardedLifetime is the default of vip_lifetime with quorum, and the most that the voters of guard lifetime wait for: they do not know the instances.
const GuardedLifetime = 2 * time.Second

const (
	defaultQuorumPort = 3741
	maxDataNodes      = 3
	maxVoterLines     = 7
	maxNodeName       = 63 // as much as PostgreSQL keeps of an application_name

	// The default of vip_after_notify with a resource of kind postgresql.
	promotionTime = 30 * time.Second

	// pgnotify puts this name into synchronous_standby_names for "nobody".
	reservedName = "pgnotify_hold"

	givenAlready = "given already (at %s), expected it once"
)

// quorumDraft is the quorum block on its way.
type quorumDraft struct {
	Quorum
	at        origin
	seen      map[string]origin // each keyword's first place
	voters    []voterDraft
	resources []resourceDraft
	addrs     map[netip.Addr]ownAddress // of the voters
}

type voterDraft struct {
	Voter
	at    origin
	addrs []origin // where each of Addrs stood
	whole bool     // every address could be read
}

type resourceDraft struct {
	Resource
	at   origin
	used bool
}

// ownAddress says which node has an address, and where that stands.
type ownAddress struct {
	name string
	at   Pos
}

func quorumKeywords() [][]keyword[quorumDraft] {
	one := func(name string, set func(s *statement, d *quorumDraft, w word)) keyword[quorumDraft] {
		return keyword[quorumDraft]{name: name, need: 1, max: -1, set: once(func(s *statement, d *quorumDraft) {
			s.nothingAfter(1)
			set(s, d, s.arg(0))
		})}
	}
	choice := func(name, expected string, of func(d *quorumDraft) *string, values ...string) keyword[quorumDraft] {
		return one(name, func(s *statement, d *quorumDraft, w word) {
			if !slices.Contains(values, w.text) {
				s.bad(w, "unknown value, expected %s", expected)
				return
			}
			*of(d) = w.text
		})
	}
	file := func(name string, of func(d *quorumDraft) *string) keyword[quorumDraft] {
		return one(name, func(s *statement, d *quorumDraft, w word) {
			if !path.IsAbs(w.text) {
				s.bad(w, "not an absolute path, expected one that starts with /")
				return
			}
			*of(d) = path.Clean(w.text)
		})
	}
	return [][]keyword[quorumDraft]{{
		one("node", func(s *statement, d *quorumDraft, w word) {
			if s.nodeName(w) {
				d.Node = w.text
			}
		}),
		file("key_file", func(d *quorumDraft) *string { return &d.KeyFile }),
		file("state_dir", func(d *quorumDraft) *string { return &d.StateDir }),
		one("port", func(s *statement, d *quorumDraft, w word) {
			if v, ok := s.number(w, 1, 65534, ""); ok {
				d.Port = int(v)
			}
		}),
		{name: "voter", need: 2, max: -1, set: func(s *statement, d *quorumDraft) { voterLine(s, d, false) }},
		{name: "witness", need: 2, max: -1, set: func(s *statement, d *quorumDraft) { voterLine(s, d, true) }},
		{name: "resource", need: 2, max: -1, set: resourceLine},
		one("agent_user", func(s *statement, d *quorumDraft, w word) {
			if w.text == "" || strings.ContainsAny(w.text, ":/"+blanks) {
				s.bad(w, "not a user's name, expected one without blank, : or /")
				return
			}
			d.AgentUser = w.text
		}),
		one("lease", func(s *statement, d *quorumDraft, w word) {
			if v, ok := s.seconds(w, 100*time.Millisecond, 10*time.Second, ""); ok {
				d.Lease = v
			}
		}),
		choice("no_quorum_policy", "freeze, stop, ignore or suicide", func(d *quorumDraft) *string { return &d.Policy },
			PolicyFreeze, PolicyStop, PolicyIgnore, PolicySuicide),
		{name: "reboot_command", need: 1, max: -1, set: once(func(s *statement, d *quorumDraft) {
			d.RebootCommand = s.command("nothing is run")
			if d.RebootCommand.User == (User{}) { // not script_user, who may reboot nothing
				d.RebootCommand.User.Name = "root"
			}
		})},
		choice("guard", "nftables, lifetime or none", func(d *quorumDraft) *string { return &d.Guard },
			GuardNFTables, GuardLifetime, GuardNone),
		one("fencing", func(s *statement, d *quorumDraft, w word) {
			switch w.text {
			case "off":
			case "automatic", "required":
				s.report(Fatal, w, "fencing is not part of this version, expected off")
			default:
				s.bad(w, "unknown value, expected off")
			}
		}),
		{name: "watchdog", need: 1, max: -1, set: once(watchdogLine)},
	},
		not[quorumDraft](refused, false, "fencing is not part of this version, expected no such line", "fence"),
		not[quorumDraft](refused, false, "a guard of ports is not part of this version, expected no such line", "guard_port"),
	}
}

// once is for keywords that may stand once in the block.
func once(set func(s *statement, d *quorumDraft)) func(s *statement, d *quorumDraft) {
	return func(s *statement, d *quorumDraft) {
		if at, again := d.seen[s.name()]; again {
			s.bad(word{pos: s.words[0].pos}, givenAlready, at.At())
			return
		}
		d.seen[s.name()] = s.origin()
		set(s, d)
	}
}

// nothingAfter reports surplus words of a line that is ours: there no habit of keepalived excuses them.
func (s *statement) nothingAfter(words int) {
	if words < s.args() {
		s.bad(s.arg(words), "surplus word, expected the end of the line")
	}
}

// nodeName looks at the name of a voter, witness or resource.
func (s *statement) nodeName(w word) bool {
	if !isNodeName(w.text) {
		s.bad(w, "invalid name, expected at most %d letters, digits, . _ or -, the first a letter or digit", maxNodeName)
		return false
	}
	return true
}

func isNodeName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return name != "" && len(name) <= maxNodeName
}

// voterLine reads NAME ADDRESS… [votes N]. A line with a mistake counts too, so that one mistake does not look like two.
func voterLine(s *statement, d *quorumDraft, witness bool) {
	w := s.arg(0)
	v := voterDraft{at: s.origin(), whole: true, Voter: Voter{Pos: s.words[0].pos, Name: w.text, Witness: witness, Votes: 1}}
	if s.nodeName(w) {
		// Names become application_names, which PostgreSQL compares without regard to case.
		for _, other := range d.voters {
			if strings.EqualFold(other.Name, w.text) {
				s.bad(w, "name is taken (at %s), expected a name of its own", other.At())
				return
			}
		}
		if strings.EqualFold(w.text, reservedName) {
			s.bad(w, "name has a meaning for pgnotify, expected another")
		}
	}
	given := 0
	for i := 1; i < s.args(); i++ {
		w := s.arg(i)
		if w.text == "votes" && !w.quoted {
			v.Votes = votes(s, i+1, witness)
			s.nothingAfter(i + 2)
			break
		}
		given++
		if a, ok := voterAddress(s, w); !ok {
			v.whole = false
		} else if other, taken := d.addrs[a]; taken {
			s.bad(w, "address of %s already (at %s), expected one of its own", other.name, other.at.At())
			v.whole = false
		} else {
			d.addrs[a] = ownAddress{v.Name, w.pos}
			v.Addrs = append(v.Addrs, a)
			v.addrs = append(v.addrs, origin{w.pos, s.line.via, s.name()})
		}
	}
	if given == 0 {
		s.bad(s.arg(1), "address is missing, expected NAME ADDRESS…")
		v.whole = false
	}
	d.voters = append(d.voters, v)
}

// votes reads the number after the word votes, which is argument i.
func votes(s *statement, i int, witness bool) int {
	switch {
	case !witness:
		s.bad(s.arg(i-1), "a data node has one vote, expected votes on a witness line only")
	case i >= s.args():
		s.bad(s.arg(i-1), "value is missing, expected votes 1 or votes 2")
	default:
		if v, ok := s.number(s.arg(i), 1, 2, ""); ok {
			return int(v)
		}
	}
	return 1
}

// voterAddress reads an address at which a host can be reached without saying by which interface.
func voterAddress(s *statement, w word) (netip.Addr, bool) {
	a, err := netip.ParseAddr(w.text)
	problem := ""
	switch {
	case err != nil:
		problem = "malformed address"
	case a.Is4In6():
		problem = "IPv4 address in the form of IPv6"
	case a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.IsMulticast():
		problem = "no host can have this address"
	case a.Zone() != "", a.Is6() && a.IsLinkLocalUnicast():
		problem = "link-local address means another host on each interface"
	default:
		return a, true
	}
	s.bad(w, "%s, expected an IPv4 or IPv6 unicast address", problem)
	return netip.Addr{}, false
}

// resourceLine reads NAME KIND.
func resourceLine(s *statement, d *quorumDraft) {
	name, kind := s.arg(0), s.arg(1)
	r := resourceDraft{at: s.origin(), Resource: Resource{Pos: s.words[0].pos, Name: name.text, Kind: kind.text}}
	if kind.text != KindPostgreSQL && kind.text != KindPlain {
		s.bad(kind, "unknown kind of resource, expected %s or %s", KindPostgreSQL, KindPlain)
	}
	s.nothingAfter(2)
	if s.nodeName(name) {
		for _, other := range d.resources {
			if other.Name == name.text {
				s.bad(name, "name is taken (at %s), expected a name of its own", other.At())
				return
			}
		}
	}
	d.resources = append(d.resources, r)
}

// watchdogLine reads DEVICE [timeout SECONDS] [mode off|automatic|required].
func watchdogLine(s *statement, _ *quorumDraft) {
	mode := word{text: "automatic", pos: s.arg(s.args()).pos}
	for i := 1; i < s.args(); i += 2 {
		switch option, value := s.arg(i), s.arg(i+1); {
		case option.text != "timeout" && option.text != "mode":
			s.bad(option, "unknown option, expected timeout or mode")
		case i+1 >= s.args():
			s.bad(option, "value is missing, expected one after %s", option.text)
		case option.text == "timeout":
			s.number(value, 1, 3600, "")
		default:
			mode = value
		}
	}
	if mode.text != "off" {
		s.report(Fatal, mode, "a watchdog is not part of this version, expected mode off")
	}
}

// beginQuorum parses the quorum block.
func beginQuorum(s *statement, p *parser) {
	p.cfg.Extended = true
	if p.quorum != nil {
		s.bad(word{pos: s.words[0].pos}, "quorum block exists already (at %s), expected one", p.quorum.at.At())
		p.skipBlock()
		return
	}
	p.quorum = &quorumDraft{at: s.origin(), seen: map[string]origin{}, addrs: map[netip.Addr]ownAddress{}, Quorum: Quorum{
		Pos: s.words[0].pos, KeyFile: "/etc/vrrpd/quorum.key", StateDir: "/var/lib/vrrpd", Port: defaultQuorumPort,
		AgentUser: "postgres", Lease: 400 * time.Millisecond, Policy: PolicyFreeze, Guard: GuardNFTables,
	}}
	s.nothingAfter(0)
	parseBlock(p, s, p.quorumWords, p.quorum)
}

// finishQuorum does what the end of the block decides.
func (p *parser) finishQuorum() {
	d := p.quorum
	if d == nil {
		return
	}
	report := func(sev Severity, keyword, got, format string, args ...any) {
		at := d.at
		if given, ok := d.seen[keyword]; ok {
			at = given
		}
		at.keyword = keyword
		p.report(sev, at, got, format, args...)
	}
	for _, v := range d.voters {
		d.Voters = append(d.Voters, v.Voter)
	}
	for _, r := range d.resources {
		d.Resources = append(d.Resources, r.Resource)
	}
	p.cfg.Quorum = &d.Quorum

	d.countVoters(p)
	d.loopback(p)
	if len(d.resources) == 0 {
		p.report(Error, d.at, "", "there is nothing to decide on, expected resource NAME %s or %s", KindPostgreSQL, KindPlain)
	}
	if _, known := d.find(d.Node); d.Node != "" && !known {
		report(Error, "node", d.Node, "no voter or witness line of this name, expected one of %s", d.names())
	}

	_, reboot := d.seen["reboot_command"]
	switch {
	case d.Policy == PolicySuicide && !reboot:
		report(Error, "no_quorum_policy", d.Policy, `there is nothing to run, expected reboot_command "…" too`)
	case d.Policy != PolicySuicide && reboot:
		report(Lint, "reboot_command", "", "has no effect without no_quorum_policy suicide")
	case d.Policy == PolicyIgnore:
		report(Lint, "no_quorum_policy", d.Policy, "two nodes can be master at once, and commits get lost; expected freeze or stop")
	}
}

// countVoters looks at how many nodes, votes and links there are.
func (d *quorumDraft) countVoters(p *parser) {
	data, votes := 0, 0
	for i, v := range d.voters {
		votes += v.Votes
		if !v.Witness {
			data++
			if data == maxDataNodes+1 {
				p.report(Error, v.at, v.Name, "a fourth data node, expected two or three data nodes; a host that only votes is a witness")
			}
		}
		if i == maxVoterLines {
			p.report(Error, v.at, v.Name, "an eighth line, expected at most %d voters and witnesses together", maxVoterLines)
		}
	}
	switch {
	case data == 0:
		p.report(Error, d.at, "", "there is no data node, expected 1 to %d voter lines", maxDataNodes)
	case votes == 1:
		p.report(Lint, d.at, "", "one vote alone survives no failure, expected more voters or witnesses")
	case votes%2 == 0:
		p.report(Lint, d.at, "", "%d votes: an even number of votes survives no more failures than one less, expected an odd number", votes)
	}
	if slices.ContainsFunc(d.voters, func(v voterDraft) bool { return !v.whole }) {
		return
	}
	// A witness may stand on some of the links only: between two data nodes goes the service's own traffic, too.
	var first *voterDraft
	for i := range d.voters {
		switch v := &d.voters[i]; {
		case v.Witness:
		case first == nil:
			first = v
		case len(v.Addrs) != len(first.Addrs):
			p.report(Lint, v.at, v.Name, "addresses: %d, but %d of %s; expected one on each link for every data node", len(v.Addrs), len(first.Addrs), first.Name)
		}
	}
	for _, v := range d.voters {
		if v.Witness && first != nil && len(v.Addrs) > len(first.Addrs) {
			p.report(Lint, v.at, v.Name, "addresses: %d, but %d of %s; expected no more than a data node has", len(v.Addrs), len(first.Addrs), first.Name)
		}
	}
}

// loopback: an address that means another host on each host is good for a cluster on one host only.
func (d *quorumDraft) loopback(p *parser) {
	all := true
	for a := range d.addrs {
		all = all && a.IsLoopback()
	}
	if all {
		return
	}
	for _, v := range d.voters {
		for i, a := range v.Addrs {
			if a.IsLoopback() {
				p.report(Error, v.addrs[i], a.String(), "loopback address beside others, expected one that the other nodes reach")
			}
		}
	}
}

func (d *quorumDraft) resource(name string) *resourceDraft {
	for i := range d.resources {
		if d.resources[i].Name == name {
			return &d.resources[i]
		}
	}
	return nil
}

// granted checks and completes an instance whose mastership needs a grant.
func (d *instanceDraft) granted(p *parser, report reporter) {
	if d.Quorum == "" {
		return
	}
	if d.Priority == 255 {
		keyword := "priority"
		if _, given := d.seen[keyword]; !given {
			keyword = "state"
		}
		report(Error, keyword, "", "an address owner (255) is master without asking anybody, expected 1 to 254 with quorum")
	}
	_, lifetimeGiven := d.seen["vip_lifetime"]
	if !lifetimeGiven {
		d.VIPLifetime = GuardedLifetime
	}
	q := p.quorum
	if q == nil {
		report(Error, "quorum", d.Quorum, "there is no quorum block, expected one in the file")
		return
	}
	switch {
	case q.Guard == GuardLifetime && (d.VIPLifetime == 0 || d.VIPLifetime > GuardedLifetime):
		report(Error, "vip_lifetime", secondsText(d.VIPLifetime), "with guard lifetime the voters wait for %s s and no longer, expected 1 or %[1]s", secondsText(GuardedLifetime))
	case q.Guard == GuardNone && d.VIPLifetime == 0:
		report(Lint, "vip_lifetime", "0", "with guard none nothing takes the addresses from a vrrpd that hangs, expected 1 or more")
	}
	if self, ok := q.find(q.Node); ok && self.Witness {
		report(Error, "quorum", d.Quorum, "this host (node %s) is a witness, which is never granted anything, expected a voter line for it", self.Name)
	}
	r := q.resource(d.Quorum)
	if r == nil {
		report(Error, "quorum", d.Quorum, "no resource of this name, expected one of the quorum block (%s)", q.at.At())
		return
	}
	r.used = true
	if _, given := d.seen["vip_after_notify"]; r.Kind == KindPostgreSQL && !given {
		d.VIPAfterNotify = promotionTime
		if !d.Hooks.tellsMaster() {
			report(Error, "quorum", d.Quorum, "resource is of kind %s, and no hook waits for the promotion, expected notify_master or notify", r.Kind)
		}
	}
}

// tellsMaster says whether there is a hook of the state MASTER.
func (h *Hooks) tellsMaster() bool { return len(h.Master.Argv) > 0 || len(h.Notify.Argv) > 0 }

// finishGrants looks at the instances and the block together.
func (p *parser) finishGrants() {
	if p.quorum == nil || len(p.instances) == 0 {
		return
	}
	for _, r := range p.quorum.resources {
		if !r.used {
			p.report(Lint, r.at, r.Name, "no vrrp_instance asks for this resource, expected quorum %s in one", r.Name)
		}
	}
	for _, d := range p.instances {
		for _, list := range [][]Address{d.Addresses, d.Excluded} {
			for _, a := range list {
				if own, taken := p.quorum.addrs[a.Prefix.Addr()]; taken {
					p.report(Error, origin{Pos: a.Pos, keyword: "virtual_ipaddress"}, a.Prefix.String(),
						"address of the node %s itself (at %s), expected one that can move", own.name, own.at.At())
				}
			}
		}
	}
}

func (q *Quorum) find(name string) (Voter, bool) {
	for _, v := range q.Voters {
		if v.Name == name {
			return v, true
		}
	}
	return Voter{}, false
}

func (q *Quorum) names() string {
	names := make([]string, 0, len(q.Voters))
	for _, v := range q.Voters {
		names = append(names, v.Name)
	}
	return strings.Join(names, ", ")
}

// Self gives the line of this host: that of Node, else of hostname, else of hostname up to its first dot; host names
// without regard to case. The error lists the names that there are.
func (q *Quorum) Self(hostname string) (Voter, error) {
	if q.Node != "" {
		if v, ok := q.find(q.Node); ok {
			return v, nil
		}
		return Voter{}, fmt.Errorf("find node %s in the quorum block: expected one of %s", q.Node, q.names())
	}
	short, _, _ := strings.Cut(hostname, ".")
	for _, name := range []string{hostname, short} {
		for _, v := range q.Voters {
			if strings.EqualFold(v.Name, name) {
				return v, nil
			}
		}
	}
	return Voter{}, fmt.Errorf("find host %s in the quorum block: expected one of %s; give this host's name there with node", hostname, q.names())
}

// Resource gives the resource of this name.
func (q *Quorum) Resource(name string) (Resource, bool) {
	for _, r := range q.Resources {
		if r.Name == name {
			return r, true
		}
	}
	return Resource{}, false
}

// Node gives the line of this host like Quorum.Self, and refuses what only the host's name tells: a witness is granted
// nothing, so that no vrrp_instance of its file can ask for it. It needs a quorum block.
func (c *Config) Node(hostname string) (Voter, error) {
	if c.Quorum == nil {
		return Voter{}, errors.New("find this host in the quorum block: there is none")
	}
	self, err := c.Quorum.Self(hostname)
	if err != nil || !self.Witness {
		return self, err
	}
	for _, i := range c.Instances {
		if i.Quorum != "" {
			return Voter{}, fmt.Errorf("run vrrp_instance %s (%s) on witness %s: a witness is never granted anything, expected it on a voter only",
				i.Name, i.At(), self.Name)
		}
	}
	return self, nil
}

// Witness says whether the host of this name votes and holds nothing: it stands on a witness line of the quorum block, or
// the file has the block and no vrrp_instance. Without instances it needs no privileges.
func (c *Config) Witness(hostname string) bool {
	if c.Quorum == nil {
		return false
	}
	self, err := c.Quorum.Self(hostname)
	return len(c.Instances) == 0 || err == nil && self.Witness
}
