package system

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// filterTable is the name of a Filter's table, or how it begins.
const filterTable = "vrrpd_filter"

// filterName is the name of the table of an owner.
func filterName(owner string) string {
	if owner == "" {
		return filterTable
	}
	h := fnv.New32a()
	fmt.Fprint(h, owner)
	return fmt.Sprintf("%s_%08x", filterTable, h.Sum32())
}

// FilterRules say what Filter drops.
type FilterRules struct {
	// Closed are addresses that packets are not accepted for, but for neighbour discovery (RFC 9568 section 6.1, Accept_Mode).
	Closed []netip.Addr
	// Quiet are interfaces that do not tell which multicast groups are listened to while they have no link-local address: a
	// switch must not learn a virtual MAC address from a host that is not master. The parent tells instead.
	Quiet []string
}

// Empty reports whether nothing is dropped.
func (r *FilterRules) Empty() bool { return len(r.Closed)+len(r.Quiet) == 0 }

func (r *FilterRules) equal(o *FilterRules) bool {
	return slices.Equal(r.Closed, o.Closed) && slices.Equal(r.Quiet, o.Quiet)
}

// Filter is a table of nf_tables of ours. It is safe for concurrent use.
type Filter struct {
	Owner string // tells the tables of several vrrpd of one host apart

	mu    sync.Mutex
	k     *guardTables // nil: nothing was ever wanted, and the kernel need not have nf_tables
	rules FilterRules
	built bool
}

// Set makes the table be what the rules say, in one step; without rules there is none. It belongs to the network namespace of the
// calling thread.
func (f *Filter) Set(rules FilterRules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.built && rules.equal(&f.rules) || f.k == nil && rules.Empty() {
		return nil
	}
	f.rules = FilterRules{slices.Clone(rules.Closed), slices.Clone(rules.Quiet)}
	return f.build()
}

// Look builds the table anew if somebody removed it: a firewall's reload may flush all tables. It reports whether it had to.
func (f *Filter) Look() (again bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules.Empty() {
		return false, nil
	}
	if f.built {
		there, err := hasTable(f.k, f.table())
		if there || err != nil {
			return false, err
		}
	}
	return true, f.build()
}

// Close removes the table.
func (f *Filter) Close() error {
	err := f.Set(FilterRules{})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.k != nil {
		err = errors.Join(err, f.k.close())
		f.k = nil
	}
	return err
}

func (f *Filter) table() *nftables.Table {
	return &nftables.Table{Name: filterName(f.Owner), Family: nftables.TableFamilyINet}
}

func (f *Filter) build() (err error) {
	if f.k == nil {
		if f.k, err = openGuardTables(); err != nil {
			return fmt.Errorf("make nftables table %s: %w", filterName(f.Owner), err)
		}
	}
	err = f.k.commit(func(c *nftables.Conn) error {
		t := f.table()
		c.AddTable(t)
		c.DelTable(t) // only what exists can be removed
		if f.rules.Empty() {
			return nil
		}
		c.AddTable(t)
		return errors.Join(f.addClosed(c, t), f.addQuiet(c, t))
	})
	if f.built = err == nil; err != nil {
		return fmt.Errorf("make nftables table %s: %w", filterName(f.Owner), err)
	}
	return nil
}

func (f *Filter) addClosed(c *nftables.Conn, t *nftables.Table) error {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	four := &nftables.Set{Table: t, ID: 1, Name: "closed4", KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian}
	six := &nftables.Set{Table: t, ID: 2, Name: "closed6", KeyType: nftables.TypeIP6Addr, KeyByteOrder: binaryutil.BigEndian}
	chain := c.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityRef(guardPriority)})
	for _, s := range []struct {
		set  *nftables.Set
		keys [][]byte
	}{{four, keys4(f.rules.Closed)}, {six, keys6(f.rules.Closed)}} {
		if err := c.AddSet(s.set, elements(s.keys, 0)); err != nil {
			return err
		}
	}
	ip4, ip6 := is(meta(expr.MetaKeyNFPROTO), unix.NFPROTO_IPV4), is(meta(expr.MetaKeyNFPROTO), unix.NFPROTO_IPV6)
	icmp6 := is(meta(expr.MetaKeyL4PROTO), unix.IPPROTO_ICMPV6)
	addRule(c, chain, expr.VerdictDrop, ip4, in(payload(network, ip4Destination, 4), four))
	for _, kind := range []byte{ndSolicitation, ndAdvertising} {
		addRule(c, chain, expr.VerdictAccept, ip6, icmp6, is(payload(transport, icmp6Type, 1), kind))
	}
	addRule(c, chain, expr.VerdictDrop, ip6, in(payload(network, ip6Destination, 16), six))
	return nil
}

// Messages of Multicast Listener Discovery that a listener sends (RFC 3810 section 5.2, RFC 2710 section 3).
const mldReport, mldDone, mldReport2 = 131, 132, 143

func (f *Filter) addQuiet(c *nftables.Conn, t *nftables.Table) error {
	const transport = expr.PayloadBaseTransportHeader
	if len(f.rules.Quiet) == 0 {
		return nil
	}
	quiet := &nftables.Set{Table: t, ID: 3, Name: "quiet", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	keys := make([][]byte, len(f.rules.Quiet))
	for i, name := range f.rules.Quiet {
		keys[i] = make([]byte, unix.IFNAMSIZ)
		copy(keys[i], name)
	}
	if err := c.AddSet(quiet, elements(keys, 0)); err != nil {
		return err
	}
	chain := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityRef(guardPriority)})
	out := in(meta(expr.MetaKeyOIFNAME), quiet)
	addRule(c, chain, expr.VerdictDrop, out, is(meta(expr.MetaKeyL4PROTO), unix.IPPROTO_IGMP))
	// A master tells what it needs to be found by neighbours: then there is a link-local virtual address to tell it from.
	ip6, icmp6 := is(meta(expr.MetaKeyNFPROTO), unix.NFPROTO_IPV6), is(meta(expr.MetaKeyL4PROTO), unix.IPPROTO_ICMPV6)
	nobody := is(payload(expr.PayloadBaseNetworkHeader, ip6Source, 16), make([]byte, 16)...)
	for _, kind := range []byte{mldReport, mldDone, mldReport2} {
		addRule(c, chain, expr.VerdictDrop, out, ip6, nobody, icmp6, is(payload(transport, icmp6Type, 1), kind))
	}
	return nil
}

// hasTable reports whether a table is there.
func hasTable(k *guardTables, t *nftables.Table) (bool, error) {
	body := appendAttribute([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, unix.NFTA_TABLE_NAME, append([]byte(t.Name), 0))
	outcome, err := k.nl.exchange([]message{{kind: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE, body: body}})
	switch {
	case err != nil:
		return false, err
	case outcome[0] == nil:
		return true, nil
	case guardMissing(outcome[0]):
		return false, nil
	}
	return false, fmt.Errorf("look for table %s: %w", t.Name, outcome[0])
}

// CleanupFilter removes, in the network namespace of the calling thread, the table that a run of the owner left which was killed.
// It is harmless if there is none, or no nf_tables.
func CleanupFilter(owner string) error {
	k, err := openGuardTables()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up filter: %w", err)
	}
	defer func() { _ = k.close() }()
	t := (&Filter{Owner: owner}).table()
	there, err := hasTable(k, t)
	if there {
		err = k.commit(func(c *nftables.Conn) error {
			c.DelTable(t)
			return nil
		})
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("clean up filter: %w", err)
	}
	return nil
}
