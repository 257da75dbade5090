package promote

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"pgvrrp/internal/postgres"
)

// DefaultFile is where the settings are looked for.
const DefaultFile = "/etc/pgnotify/pgnotify.toml"

// DefaultStateDir is where hook states, markers, locks and the history live.
const DefaultStateDir = "/var/lib/pgnotify"

// Settings is pgnotify.toml with every default filled in.
type Settings struct {
	File string
	Text []byte // of the file
	Node string // application_name of the walreceiver, and our name in Peers; in quorum mode "" unless it is written: vrrpd knows

	// Resource is vrrpd's quorum resource; "" is hook mode.
	Resource string

	DataDir    string
	BinDir     string
	ConfigFile string
	Port       int // of every server of the cluster
	Conninfo   string
	Start      []string
	Stop       []string

	User            string // role that streams
	Passfile        string
	ConninfoOptions string // libpq keyword=value pairs

	VIP    netip.Addr
	Peers  map[string][]netip.Addr // every node, this one too; several addresses are several links to one server
	Settle time.Duration

	OnCrash     string // of quorum mode: failover or restart; in hook mode nobody notices a crash
	Rewind      bool
	Reclone     bool
	KeepOldData bool

	LogFile  string
	Listen   netip.AddrPort // of the HTTP interface; the zero value is none
	Timeouts Timeouts
}

// Quorum reports whether the settings are for the agent, beside a vrrpd with a quorum block.
func (s Settings) Quorum() bool { return s.Resource != "" }

// Timeouts are the deadlines of single acts.
type Timeouts struct {
	// Connect is how long the kernel of a peer, or of whoever holds the VIP, has to answer a connection attempt: one that says
	// nothing is taken for dead or cut off. It answers before PostgreSQL is asked at all, however busy that is.
	Connect   time.Duration
	Probe     time.Duration // the server's answer, once the connection stands; without it its role is unknown
	Handover  time.Duration // MASTER waits so long for another primary, or a server that starts or stops, before it refuses
	Start     time.Duration
	Stop      time.Duration // fast; after it an immediate stop
	Promote   time.Duration
	Lock      time.Duration // for another pgnotify at work on the same data directory
	Streaming time.Duration // from a standby's start until it streams
}

// SettingsError is every mistake of one file, each as "file:line: key: problem".
type SettingsError struct{ Mistakes []string }

func (e *SettingsError) Error() string { return strings.Join(e.Mistakes, "\n") }

// Load reads and checks a settings file. The error is a *SettingsError or says why the file could not be read.
func Load(file string) (Settings, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return Settings{}, fmt.Errorf("ask for the host name: %w", err)
	}
	return Parse(file, text, host)
}

// Parse checks the text of a settings file. hostname is the default of node.
func Parse(file string, text []byte, hostname string) (Settings, error) {
	p := parser{file: file, lines: map[string]int{}}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			row, col := bad.Position()
			return Settings{}, &SettingsError{[]string{fmt.Sprintf("%s:%d:%d: not TOML: %s", file, row, col, strings.TrimPrefix(bad.Error(), "toml: "))}}
		}
		return Settings{}, &SettingsError{[]string{fmt.Sprintf("%s: not TOML: %v", file, err)}}
	}
	p.locate(text)
	s := Settings{
		File: file, Text: text, Port: 5432, Conninfo: "host=/run/postgresql dbname=postgres", User: "replicator", Settle: 50 * time.Millisecond,
		OnCrash: "failover", Rewind: true, Reclone: true, KeepOldData: true,
		Timeouts: Timeouts{
			Connect: 150 * time.Millisecond, Probe: 500 * time.Millisecond, Handover: 10 * time.Second, Start: time.Minute, Stop: 30 * time.Second,
			Promote: time.Minute, Lock: time.Minute, Streaming: 30 * time.Second,
		},
	}
	schema := s.schema()
	// Which keys there are depends on the mode; a resource that is refused was meant for quorum mode too.
	needed := []string{"postgres.data_dir", "hook.vip", "hook.peers"}
	if _, quorum := tree["resource"]; quorum {
		needed = needed[:1]
		s.quorumKeys(schema)
	} else {
		s.hookKeys(schema)
	}
	p.walk("", tree, schema)
	s.node(&p, hostname)
	for _, key := range needed {
		if p.lines[key] == 0 {
			p.mistakes = append(p.mistakes, mistake{0, fmt.Sprintf("%s: %s: is missing", file, key)})
		}
	}
	if len(p.mistakes) > 0 {
		return Settings{}, p.error()
	}
	return s, nil
}

// A setter checks one value and keeps it; its error says what was expected.
type setter func(v any) error

func (s *Settings) schema() map[string]setter {
	t := &s.Timeouts
	timeout := func(d *time.Duration) setter { return duration(d, time.Millisecond, 24*time.Hour) }
	return map[string]setter{
		"node": text(&s.Node, nodeName),

		"postgres.data_dir":    text(&s.DataDir, absolute),
		"postgres.bin_dir":     text(&s.BinDir, absolute),
		"postgres.config_file": text(&s.ConfigFile, absolute),
		"postgres.port":        integer(&s.Port, 1, 65535),
		"postgres.conninfo":    text(&s.Conninfo, nil),
		"postgres.start":       argv(&s.Start),
		"postgres.stop":        argv(&s.Stop),

		"replication.user":             text(&s.User, notEmpty),
		"replication.passfile":         text(&s.Passfile, absolute),
		"replication.conninfo_options": text(&s.ConninfoOptions, conninfoOptions),

		"rejoin.rewind":        boolean(&s.Rewind),
		"rejoin.reclone":       boolean(&s.Reclone),
		"rejoin.keep_old_data": boolean(&s.KeepOldData),

		"log.file": text(&s.LogFile, absolute),

		"timeouts.connect":   timeout(&t.Connect),
		"timeouts.probe":     timeout(&t.Probe),
		"timeouts.handover":  timeout(&t.Handover),
		"timeouts.start":     timeout(&t.Start),
		"timeouts.stop":      timeout(&t.Stop),
		"timeouts.promote":   timeout(&t.Promote),
		"timeouts.lock":      timeout(&t.Lock),
		"timeouts.streaming": timeout(&t.Streaming),
	}
}

// hookKeys are the keys of hook mode alone.
func (s *Settings) hookKeys(schema map[string]setter) {
	schema["hook.vip"] = text(nil, func(v string) (err error) { s.VIP, err = address(v); return err })
	schema["hook.peers"] = func(v any) (err error) { s.Peers, err = peers(v); return err }
	schema["hook.settle"] = duration(&s.Settle, 0, 10*time.Second)
	schema["failover.on_crash"] = text(&s.OnCrash, onCrash)
	schema["http"] = func(any) error {
		return errors.New("the HTTP interface is the agent's, which needs a resource; in hook mode nothing of ours runs that could listen")
	}
}

// quorumKeys are the keys of quorum mode alone. What vrrpd or the log knows stands there, and nowhere else.
func (s *Settings) quorumKeys(schema map[string]setter) {
	schema["resource"] = text(&s.Resource, resourceName)
	schema["failover.on_crash"] = text(&s.OnCrash, func(v string) error {
		if v != "failover" && v != "restart" {
			return errors.New("want failover or restart")
		}
		return nil
	})
	schema["http.listen"] = text(nil, func(v string) (err error) {
		if s.Listen, err = netip.ParseAddrPort(v); err != nil || s.Listen.Port() == 0 {
			return errors.New("want an address and a port, as in 10.77.0.1:8008 or [::]:8008")
		}
		return nil
	})
	elsewhere := func(where string) setter { return func(any) error { return errors.New(where) } }
	schema["hook"] = elsewhere("belongs to hook mode; with a resource the nodes and their addresses stand in the quorum block of vrrpd.conf, and the agent does the rest")
	for _, key := range []string{"peers", "nodes", "vip"} {
		schema[key] = elsewhere("stands in vrrpd.conf, and nowhere else")
	}
	for _, key := range []string{"sync_num", "min_copies"} {
		for _, section := range []string{"", "replication.", "failover."} {
			schema[section+key] = elsewhere("is kept by the quorum's log: pgnotify set " + key + " VALUE changes it on every node")
		}
	}
}

// node settles who we are; the host name may have a domain that the list of peers leaves out.
func (s *Settings) node(p *parser, hostname string) {
	if s.Quorum() {
		return // vrrpd knows; what is written must be the same
	}
	if s.Node == "" {
		s.Node = hostname
		if short, _, _ := strings.Cut(hostname, "."); s.Peers[hostname] == nil && s.Peers[short] != nil {
			s.Node = short
		}
	}
	if s.Peers != nil && s.Peers[s.Node] == nil {
		p.add("hook.peers", fmt.Errorf("this node, %q, is not among them (%s): add it or set node", s.Node, strings.Join(slices.Sorted(maps.Keys(s.Peers)), ", ")))
	}
}

type mistake struct {
	line int
	text string
}

type parser struct {
	file     string
	lines    map[string]int // line of each key, dotted
	mistakes []mistake
}

// locate notes the line of every key and table.
func (p *parser) locate(text []byte) {
	var u unstable.Parser
	u.Reset(text)
	var table []string
	for u.NextExpression() {
		e := u.Expression()
		var key []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 {
				line = u.Shape(n.Raw).Start.Line
			}
			key = append(key, string(n.Data))
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
		case unstable.KeyValue:
			key = append(slices.Clone(table), key...)
		default:
			continue
		}
		for i := range key {
			if dotted := strings.Join(key[:i+1], "."); p.lines[dotted] == 0 {
				p.lines[dotted] = line
			}
		}
	}
}

func (p *parser) add(key string, err error) {
	line := p.lines[key]
	p.mistakes = append(p.mistakes, mistake{line, fmt.Sprintf("%s:%d: %s: %v", p.file, line, key, err)})
}

// walk hands every value to its setter and reports the keys that have none.
func (p *parser) walk(prefix string, tree map[string]any, schema map[string]setter) {
	for key, v := range tree {
		dotted := prefix + key
		if set, ok := schema[dotted]; ok {
			if err := set(v); err != nil {
				p.add(dotted, err)
			}
			continue
		}
		sub, isTable := v.(map[string]any)
		section := false
		for known := range schema {
			section = section || strings.HasPrefix(known, dotted+".")
		}
		switch {
		case section && isTable:
			p.walk(dotted+".", sub, schema)
		case section:
			p.add(dotted, fmt.Errorf("is a section, want [%s] (got %s)", dotted, show(v)))
		default:
			p.add(dotted, errors.New("unknown key"))
		}
	}
}

func (p *parser) error() error {
	slices.SortFunc(p.mistakes, func(a, b mistake) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return strings.Compare(a.text, b.text)
	})
	e := &SettingsError{}
	for _, m := range p.mistakes {
		e.Mistakes = append(e.Mistakes, m.text)
	}
	return e
}

func show(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}

func text(into *string, check func(string) error) setter {
	return func(v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a text in quotes (got %s)", show(v))
		}
		if strings.ContainsAny(s, "\x00\n\r") {
			return fmt.Errorf("must not have a line break (got %q)", s)
		}
		if check != nil {
			if err := check(s); err != nil {
				return fmt.Errorf("%w (got %q)", err, s)
			}
		}
		if into != nil {
			*into = s
		}
		return nil
	}
}

func integer(into *int, least, most int64) setter {
	return func(v any) error {
		n, ok := v.(int64)
		if !ok || n < least || n > most {
			return fmt.Errorf("want a number from %d to %d (got %s)", least, most, show(v))
		}
		*into = int(n)
		return nil
	}
}

func boolean(into *bool) setter {
	return func(v any) error {
		b, ok := v.(bool)
		if !ok {
			return fmt.Errorf("want true or false (got %s)", show(v))
		}
		*into = b
		return nil
	}
}

func duration(into *time.Duration, least, most time.Duration) setter {
	return func(v any) error {
		s, _ := v.(string)
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			return fmt.Errorf("want a time with its unit from %s to %s, as in \"300ms\" (got %s)", least, most, show(v))
		}
		*into = d
		return nil
	}
}

func argv(into *[]string) setter {
	return func(v any) error {
		list, ok := v.([]any)
		var words []string
		for _, w := range list {
			s, isText := w.(string)
			ok = ok && isText && s != "" && !strings.ContainsRune(s, 0)
			words = append(words, s)
		}
		if !ok || len(words) == 0 || !filepath.IsAbs(words[0]) {
			return fmt.Errorf("want a list of words, the first an absolute path, as in [\"/usr/bin/x\", \"start\"] (got %s)", show(v))
		}
		*into = words
		return nil
	}
}

func absolute(s string) error {
	if !filepath.IsAbs(s) || filepath.Clean(s) == "/" {
		return errors.New("want an absolute path")
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	return nil
}

// nodeName keeps to what PostgreSQL keeps of an application_name and needs no quotes in synchronous_standby_names lists.
func nodeName(s string) error {
	if s == "" || len(s) > 63 {
		return errors.New("want a name of 1 to 63 characters")
	}
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", r) {
			return errors.New("want letters, digits, '_', '.' and '-' only")
		}
	}
	return nil
}

// resourceName keeps to what vrrpd takes as the name of a resource.
func resourceName(s string) error {
	if s == "" || len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", r)
	}) {
		return errors.New("want the name of a resource in the quorum block of vrrpd.conf; leave it out for hook mode")
	}
	return nil
}

func onCrash(s string) error {
	switch s {
	case "failover":
		return nil
	case "restart":
		return errors.New("in hook mode nothing of ours runs beside the server: when it dies alone it stays down and the addresses stay there, until pgnotify start --as-is or vrrpd release; quorum mode restarts it; want failover, or leave it out")
	}
	return errors.New("want failover")
}

func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, errors.New("want an IPv4 or IPv6 address without prefix length")
	}
	if a.IsUnspecified() || a.IsMulticast() {
		return a, errors.New("want the address of a host")
	}
	return a, nil
}

func peers(v any) (map[string][]netip.Addr, error) {
	const want = "want every node with its addresses, as in { n1 = [\"10.78.0.1\"], n2 = [\"10.78.0.2\"] }"
	table, ok := v.(map[string]any)
	if !ok || len(table) < 2 {
		return nil, fmt.Errorf("%s, two nodes at least (got %s)", want, show(v))
	}
	all, owner := map[string][]netip.Addr{}, map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if err := nodeName(name); err != nil {
			return nil, fmt.Errorf("node %q: %w", name, err)
		}
		list, ok := table[name].([]any)
		if !ok || len(list) == 0 {
			return nil, fmt.Errorf("node %q: %s (got %s)", name, want, show(table[name]))
		}
		for _, item := range list {
			s, _ := item.(string)
			a, err := address(s)
			if err != nil {
				return nil, fmt.Errorf("node %q: %w (got %s)", name, err, show(item))
			}
			if owner[a] != "" {
				return nil, fmt.Errorf("node %q: %s stands twice", name, a)
			}
			owner[a] = name
			all[name] = append(all[name], a)
		}
	}
	return all, nil
}

// The keywords that we set ourselves.
var ownKeywords = []string{"host", "hostaddr", "port", "user", "application_name", "passfile", "dbname", "replication", "connect_timeout"}

func conninfoOptions(s string) error {
	pairs, err := parseConninfo(s)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if slices.Contains(ownKeywords, p.key) {
			return fmt.Errorf("%s is set by pgnotify itself", p.key)
		}
	}
	return nil
}

type pair struct{ key, value string }

// conninfoSpace is what libpq takes for white space there, isspace(3) in the C locale.
const conninfoSpace = " \t\n\v\f\r"

// parseConninfo reads libpq's keyword=value form: values may stand in single quotes, with \ before ' and \.
func parseConninfo(s string) ([]pair, error) {
	var pairs []pair
	for rest := strings.TrimLeft(s, conninfoSpace); rest != ""; rest = strings.TrimLeft(rest, conninfoSpace) {
		key, after, ok := strings.Cut(rest, "=")
		key, after = strings.Trim(key, conninfoSpace), strings.TrimLeft(after, conninfoSpace)
		if !ok || key == "" || strings.ContainsAny(key, conninfoSpace+`'\`) {
			return nil, errors.New("want libpq keyword=value pairs")
		}
		var v strings.Builder
		quoted := strings.HasPrefix(after, "'")
		i := 0
		if quoted {
			i = 1
		}
		closed := !quoted
		for ; i < len(after); i++ {
			ch := after[i]
			if ch == '\\' && i+1 < len(after) {
				i++
				v.WriteByte(after[i])
				continue
			}
			if quoted && ch == '\'' {
				closed = true
				i++
				break
			}
			if !quoted && strings.IndexByte(conninfoSpace, ch) >= 0 {
				break
			}
			v.WriteByte(ch)
		}
		if !closed {
			return nil, errors.New("a quote is not closed")
		}
		pairs, rest = append(pairs, pair{key, v.String()}), after[i:]
	}
	return pairs, nil
}

func formatConninfo(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte(' ')
		}
		v := p.value
		if v == "" || strings.ContainsAny(v, conninfoSpace+`'\`) {
			v = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
		}
		b.WriteString(p.key + "=" + v)
	}
	return b.String()
}

// helper is the application_name of every connection that is no standby's: under the node's name the WAL stream of
// pg_basebackup would count as that synchronous standby, and confirm commits that a broken-off copy then throws away.
const helper = "pgnotify"

func (s Settings) base(host, application string) []pair {
	p := []pair{{"host", host}, {"port", fmt.Sprint(s.Port)}, {"user", s.User}, {"application_name", application}}
	if s.Passfile != "" {
		p = append(p, pair{"passfile", s.Passfile})
	}
	return p
}

func (s Settings) options() []pair {
	pairs, err := parseConninfo(s.ConninfoOptions)
	if err != nil { // Parse has refused it
		return nil
	}
	return pairs
}

// Upstream is the primary_conninfo of a standby that streams from host. libpq rounds connect_timeout=1 up to 2 s.
func (s Settings) Upstream(host string) string {
	p := append(s.base(host, s.Node), pair{"connect_timeout", "2"})
	return formatConninfo(s.withOptions(p, pair{"keepalives_idle", "1"}, pair{"keepalives_interval", "1"}, pair{"keepalives_count", "2"}, pair{"tcp_user_timeout", "1500"}))
}

// withOptions adds the user's options, and the defaults that they don't replace.
func (s Settings) withOptions(p []pair, defaults ...pair) []pair {
	own := s.options()
	for _, d := range defaults {
		if !slices.ContainsFunc(own, func(o pair) bool { return o.key == d.key }) {
			p = append(p, d)
		}
	}
	return append(p, own...)
}

// Target is Upstream for quorum mode: node streams from the server at host and port, by the slot that is kept there for it.
func (s Settings) Target(node, host string, port int) postgres.Target {
	t := postgres.Target{
		Host: host, Port: port, User: s.User, Application: node, Slot: postgres.SlotName(node), PassFile: s.Passfile,
		Options: map[string]string{"connect_timeout": "2", "keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "2", "tcp_user_timeout": "1500"},
	}
	for _, o := range s.options() {
		if o.key == "password" {
			t.Password, t.PassFile = o.value, ""
			continue
		}
		t.Options[o.key] = o.value
	}
	return t
}

// Source is the connection string of pg_basebackup and, with dbname, of pg_rewind. A source that falls silent is given up after
// some 10 s: without that both would wait for hours, and the node with them.
func (s Settings) Source(host, dbname string) string {
	p := append(s.base(host, helper), pair{"connect_timeout", "5"})
	if dbname != "" {
		p = append(p, pair{"dbname", dbname})
	}
	return formatConninfo(s.withOptions(p, pair{"keepalives_idle", "4"}, pair{"keepalives_interval", "2"}, pair{"keepalives_count", "3"}, pair{"tcp_user_timeout", "10000"}))
}

// Question is the connection string of a probe of host: without what only libpq understands.
func (s Settings) Question(host string) string {
	p := s.base(host, helper)
	for _, o := range s.options() {
		if strings.HasPrefix(o.key, "ssl") || o.key == "options" || o.key == "password" || o.key == "channel_binding" {
			p = append(p, o)
		}
	}
	return formatConninfo(p)
}
