package system

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// guardTable is the name of our tables.
const guardTable = "vrrpd"

// guardPriority is before connection tracking (-200) and before what hosts usually have.
const guardPriority = -300

// guardTables is the kernel's half of a Guard, by nf_tables.
//
// Package nftables writes the messages, and a socket of our own carries them. The package's connections count the kernel's answers
// and do not look whose they are: they wait for ever when nf_tables is missing, and after some errors take an old answer for a new one.
type guardTables struct {
	nl      *rtnl
	encoder *nftables.Conn
	encoded []netlink.Message

	inet, arp *nftables.Table

	// Guarded addresses and, of them, those that are open. Sets belong to tables, so the IPv4 ones are there twice.
	guarded4, guarded6, guardedARP *nftables.Set
	open4, open6, openARP          *nftables.Set
}

var errEncoded = errors.New("encoded")

// openGuardTables opens a socket in the network namespace of the calling thread.
func openGuardTables() (*guardTables, error) {
	nl, err := openNFNL()
	if err != nil {
		return nil, err
	}
	k := &guardTables{nl: nl}
	// The function is called when the messages are complete. Its error ends the library's part.
	k.encoder, err = nftables.New(nftables.AsLasting(), nftables.WithTestDial(func(batch []netlink.Message) ([]netlink.Message, error) {
		k.encoded = batch
		return nil, errEncoded
	}))
	if err != nil {
		_ = nl.close()
		return nil, fmt.Errorf("set up nftables: %w", err)
	}
	k.inet = &nftables.Table{Name: guardTable, Family: nftables.TableFamilyINet}
	k.arp = &nftables.Table{Name: guardTable, Family: nftables.TableFamilyARP}
	id := uint32(0)
	set := func(table *nftables.Table, name string, kind nftables.SetDatatype, timeout bool) *nftables.Set {
		id++ // what is 0 would be counted in a variable of the library's that is not safe for concurrent use
		return &nftables.Set{Table: table, ID: id, Name: name, KeyType: kind, KeyByteOrder: binaryutil.BigEndian, HasTimeout: timeout}
	}
	k.guarded4 = set(k.inet, "guarded4", nftables.TypeIPAddr, false)
	k.guarded6 = set(k.inet, "guarded6", nftables.TypeIP6Addr, false)
	k.guardedARP = set(k.arp, "guarded4", nftables.TypeIPAddr, false)
	k.open4 = set(k.inet, "open4", nftables.TypeIPAddr, true)
	k.open6 = set(k.inet, "open6", nftables.TypeIP6Addr, true)
	k.openARP = set(k.arp, "open4", nftables.TypeIPAddr, true)
	return k, nil
}

func (k *guardTables) close() error { return k.nl.close() }

func (k *guardTables) build(l guardLayout) error {
	err := k.commit(func(c *nftables.Conn) error {
		for _, t := range []*nftables.Table{k.inet, k.arp} {
			// Only what exists can be removed.
			c.AddTable(t)
			c.DelTable(t)
			c.AddTable(t)
		}
		sets := []*nftables.Set{k.guarded4, k.guarded6, k.guardedARP, k.open4, k.open6, k.openARP}
		if l.mark != "" {
			for k, t := range []*nftables.Table{k.inet, k.arp} {
				sets = append(sets, &nftables.Set{Table: t, ID: uint32(100 + k), Name: l.mark, KeyType: nftables.TypeMark})
			}
		}
		for _, s := range sets {
			if err := c.AddSet(s, nil); err != nil {
				return err
			}
		}
		if err := k.add(c, k.guardedSets(l.addresses), 0); err != nil {
			return err
		}
		k.addRules(c)
		return nil
	})
	if err != nil {
		return fmt.Errorf("make nftables tables inet %[1]s and arp %[1]s: %[2]w", guardTable, err)
	}
	return nil
}

func (k *guardTables) change(c guardChange) error {
	err := k.commit(func(b *nftables.Conn) error {
		shut := k.openSets(c.shut)
		return errors.Join(
			k.add(b, k.guardedSets(c.guard), 0),
			// Only what exists can be removed. What is added for that must not expire in between.
			k.add(b, shut, 0), k.take(b, shut),
			k.take(b, k.openSets(c.renew)),
			k.add(b, k.openSets(c.open), c.timeout),
			k.take(b, k.guardedSets(c.unguard)),
		)
	})
	if err != nil {
		return fmt.Errorf("change nftables tables %s: %w", guardTable, err)
	}
	return nil
}

func (k *guardTables) remove() error {
	err := k.commit(func(c *nftables.Conn) error {
		for _, t := range []*nftables.Table{k.inet, k.arp} {
			c.AddTable(t)
			c.DelTable(t)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove nftables tables %s: %w", guardTable, err)
	}
	return nil
}

// setElements are keys for sets.
type setElements []struct {
	set  *nftables.Set
	keys [][]byte
}

// guardedSets is where guarded addresses stand.
func (k *guardTables) guardedSets(addresses []netip.Addr) setElements {
	v4 := keys4(addresses)
	return setElements{{k.guarded4, v4}, {k.guardedARP, v4}, {k.guarded6, keys6(addresses)}}
}

// openSets is where open gates stand.
func (k *guardTables) openSets(gates []netip.Addr) setElements {
	v4 := keys4(gates)
	return setElements{{k.open4, v4}, {k.openARP, v4}, {k.open6, keys6(gates)}}
}

func keys4(addresses []netip.Addr) (keys [][]byte) {
	for _, a := range addresses {
		if a.Is4() {
			keys = append(keys, a.AsSlice())
		}
	}
	return keys
}

func keys6(addresses []netip.Addr) (keys [][]byte) {
	for _, a := range addresses {
		if a.Is6() {
			keys = append(keys, a.AsSlice())
		}
	}
	return keys
}

// add puts elements into sets, those of sets that have times for the time given; 0 is for ever.
func (k *guardTables) add(c *nftables.Conn, list setElements, timeout time.Duration) error {
	for _, l := range list {
		if len(l.keys) > 0 {
			if err := c.SetAddElements(l.set, elements(l.keys, timeout)); err != nil {
				return err
			}
		}
	}
	return nil
}

// take takes elements out of sets; they must be there.
func (k *guardTables) take(c *nftables.Conn, list setElements) error {
	for _, l := range list {
		if len(l.keys) > 0 {
			if err := c.SetDeleteElements(l.set, elements(l.keys, 0)); err != nil {
				return err
			}
		}
	}
	return nil
}

func elements(keys [][]byte, timeout time.Duration) []nftables.SetElement {
	list := make([]nftables.SetElement, len(keys))
	for i, key := range keys {
		list[i] = nftables.SetElement{Key: key, Timeout: timeout}
	}
	return list
}

// What the rules look at, and where it stands in its header.
const (
	ip4Source, ip4Destination = 12, 16 // RFC 791 section 3.1
	ip6Source, ip6Destination = 8, 24  // RFC 8200 section 3

	icmp6Type, ndTarget           = 0, 8 // RFC 4861 sections 4.3 and 4.4
	ndSolicitation, ndAdvertising = 135, 136

	arpOperation, arpSender, arpTarget = 6, 14, 24 // RFC 826, with the lengths of Ethernet and IPv4
	arpRequest                         = 1

	hookARPIn, hookARPOut = 0, 1 // NF_ARP_IN and NF_ARP_OUT of linux/netfilter_arp.h
)

// match is one condition of a rule, or more.
type match []expr.Any

func payload(base expr.PayloadBase, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: base, Offset: offset, Len: size}
}

// is compares what load reads.
func is(load expr.Any, value ...byte) match {
	return match{load, &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: value}}
}

func in(load expr.Any, set *nftables.Set) match {
	return match{load, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set.Name, SetID: set.ID}}
}

func notIn(load expr.Any, set *nftables.Set) match {
	return match{load, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set.Name, SetID: set.ID, Invert: true}}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: unix.NFT_REG_1} }

func addRule(c *nftables.Conn, chain *nftables.Chain, verdict expr.VerdictKind, conditions ...match) {
	exprs := append(slices.Concat(conditions...), &expr.Verdict{Kind: verdict})
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
}

func (k *guardTables) addRules(c *nftables.Conn) {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	ip4, ip6 := is(meta(expr.MetaKeyNFPROTO), unix.NFPROTO_IPV4), is(meta(expr.MetaKeyNFPROTO), unix.NFPROTO_IPV6)
	icmp6 := is(meta(expr.MetaKeyL4PROTO), unix.IPPROTO_ICMPV6)
	target := payload(transport, ndTarget, 16)

	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: k.inet, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityRef(guardPriority)})
	}
	// What is for the virtual address as another host has it must pass: only the sender counts in what we send, only
	// the receiver in what we get. A packet of this host to itself is both.
	for _, side := range []struct {
		chain              *nftables.Chain
		offset4, offset6   uint32
		neighbourDiscovery byte
	}{
		{chain("input", nftables.ChainHookInput), ip4Destination, ip6Destination, ndSolicitation}, // solicitations go to a multicast address
		{chain("output", nftables.ChainHookOutput), ip4Source, ip6Source, ndAdvertising},
	} {
		address4, address6 := payload(network, side.offset4, 4), payload(network, side.offset6, 16)
		addRule(c, side.chain, expr.VerdictDrop, ip4, in(address4, k.guarded4), notIn(address4, k.open4))
		addRule(c, side.chain, expr.VerdictDrop, ip6, in(address6, k.guarded6), notIn(address6, k.open6))
		addRule(c, side.chain, expr.VerdictDrop, ip6, icmp6, is(payload(transport, icmp6Type, 1), side.neighbourDiscovery),
			in(target, k.guarded6), notIn(target, k.open6))
	}

	arp := func(name string, hook nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: k.arp, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookRef(hook), Priority: nftables.ChainPriorityRef(guardPriority)})
	}
	sender, asked := payload(network, arpSender, 4), payload(network, arpTarget, 4)
	// The holder announces a virtual address by a request from it for itself, and hosts on backup must learn from that.
	addRule(c, arp("input", hookARPIn), expr.VerdictDrop, is(payload(network, arpOperation, 2), 0, arpRequest),
		in(asked, k.guardedARP), notIn(asked, k.openARP), notIn(sender, k.guardedARP))
	addRule(c, arp("output", hookARPOut), expr.VerdictDrop, in(sender, k.guardedARP), notIn(sender, k.openARP))
}

// commit sends what fill writes as one transaction. The error tells, by errors.Is, why the kernel refused it.
func (k *guardTables) commit(fill func(c *nftables.Conn) error) error {
	k.encoded = nil
	err := fill(k.encoder)
	// The library forgets what it holds only in Flush.
	if flushed := k.encoder.Flush(); err == nil && !errors.Is(flushed, errEncoded) {
		err = flushed
	}
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return transact(k.nl, k.encoded)
}

// openNFNL opens a socket to netfilter in the network namespace of the calling thread.
func openNFNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	err = setOptions(fd, []option{
		{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1, "NETLINK_EXT_ACK"},
		{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1, "NETLINK_CAP_ACK"},
	})
	if err == nil {
		// The kernel answers while we send; only a fault makes us wait.
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	return &rtnl{fd: fd, buf: make([]byte, 1<<16)}, nil
}

// transact sends a batch, NFNL_MSG_BATCH_BEGIN to NFNL_MSG_BATCH_END, and reads the answers. The error is the first request's that
// the kernel refused; none is carried out then.
func transact(nl *rtnl, batch []netlink.Message) error {
	if len(batch) < 3 {
		return nil // nothing between the two
	}
	nl.mu.Lock()
	defer nl.mu.Unlock()
	var out []byte
	first := nl.seq + 1
	for _, m := range batch {
		nl.seq++
		// Without NLM_F_ECHO: we know what we sent.
		flags := uint16(m.Header.Flags) &^ unix.NLM_F_ECHO
		out = appendMessage(out, message{kind: uint16(m.Header.Type), flags: flags, body: m.Data}, unix.NLM_F_REQUEST, nl.seq)
	}
	if err := nl.send(out); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var refused error
	for left := len(batch) - 2; left > 0; {
		answers, err := nl.receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			// An older number is the late answer to a request that was given up.
			i := a.Header.Seq - first
			if a.Header.Type != unix.NLMSG_ERROR || i >= uint32(len(batch)) {
				continue
			}
			err := parseAck(a)
			if err != nil && refused == nil {
				refused = fmt.Errorf("%s: %w", guardRequestName(batch[i]), err)
			}
			if i == 0 && err != nil {
				return refused // the whole batch: no other answer need follow
			}
			if i > 0 && i < uint32(len(batch)-1) {
				left--
			}
		}
	}
	return refused
}

// guardRequestName says in nft's words what a request is for.
func guardRequestName(m netlink.Message) string {
	kind := int(m.Header.Type)
	if kind == unix.NFNL_MSG_BATCH_BEGIN {
		return "begin transaction"
	}
	names := map[int]string{
		unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWSET: "add set",
		unix.NFT_MSG_NEWSETELEM: "add element", unix.NFT_MSG_DELSETELEM: "delete element",
		unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_NEWRULE: "add rule",
	}
	name, family := names[kind&0xff], "inet"
	if len(m.Data) > 0 && m.Data[0] == unix.NFPROTO_ARP {
		family = "arp"
	}
	return name + " of family " + family
}

// CleanupGuard removes, in the network namespace of the calling thread, the guard that a killed run of owner left (GuardOptions.Owner; "":
// of anybody). It is harmless if there is none, or no nf_tables. The guard of another process that runs is never touched: then, or if
// the guard is another owner's, removed is false without an error.
func CleanupGuard(owner string) (removed bool, err error) {
	if removed, err = cleanupGuard(owner); err != nil {
		return removed, fmt.Errorf("clean up guard: %w", err)
	}
	return removed, nil
}

func cleanupGuard(owner string) (bool, error) {
	if taken, err := guardTaken(); err != nil || taken {
		return false, err
	}
	k, err := openGuardTables()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = k.close() }()
	mark := guardMark(owner)
	var left []*nftables.Table
	for _, t := range []*nftables.Table{k.inet, k.arp} {
		what, body := unix.NFT_MSG_GETTABLE, appendAttribute([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, unix.NFTA_TABLE_NAME, append([]byte(t.Name), 0))
		if mark != "" {
			body = appendAttribute([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, unix.NFTA_SET_TABLE, append([]byte(t.Name), 0))
			what, body = unix.NFT_MSG_GETSET, appendAttribute(body, unix.NFTA_SET_NAME, append([]byte(mark), 0))
		}
		outcome, err := k.nl.exchange([]message{{kind: uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | what), body: body}})
		if err != nil {
			return false, err
		}
		switch err := outcome[0]; {
		case err == nil:
			left = append(left, t)
		case !guardMissing(err):
			return false, fmt.Errorf("look for table %s: %w", t.Name, err)
		}
	}
	err = k.commit(func(c *nftables.Conn) error {
		for _, t := range left {
			c.DelTable(t)
		}
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, err
	}
	return len(left) > 0, nil
}

// guardMissing reports whether the answer to a question for a table is that there is none: no such table, no such family, or no nf_tables
// at all, which the kernel calls an invalid argument.
func guardMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}
