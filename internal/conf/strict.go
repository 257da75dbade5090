package conf

// discourage says what strict mode is for.
func discourage(s *statement) {
	s.report(Lint, word{pos: s.words[0].pos}, "strict mode forbids much of what makes a takeover quick and safe, expected it for a test of conformance alone")
}

// strictState settles strict mode, and what it says of the state: MASTER is that of the address owner alone.
func (d *instanceDraft) strictState(report reporter) {
	d.StrictMode = first(d.defaults.strict, d.strict)
	if !d.StrictMode {
		return
	}
	if owner := d.Priority == 255; d.state != "" && d.StartMaster != owner {
		report(Error, "state", d.state, "strict mode has MASTER with priority 255 and BACKUP with any other, expected that; taken so")
		d.StartMaster = owner
	}
}

// strictMode takes off what strict mode forbids, and fills in what it and global_defs decide.
func (d *instanceDraft) strictMode(p *parser, report reporter) {
	owner := d.Priority == 255
	d.LowerPrioNoAdvert = first(d.defaults.lowerPrioNoAdvert || d.StrictMode, d.lowerPrioNoAdvert)
	d.HigherPrioSendAdvert = first(d.defaults.higherPrioSendAdvert && !d.StrictMode, d.higherPrioSendAdvert)
	d.OwnerIgnoreAdverts = owner && first(d.defaults.ownerIgnores || d.StrictMode, d.ownerIgnores)
	if d.ownerIgnores != nil && !owner {
		report(Error, "owner_ignore_adverts", "", "has no effect without priority 255; ignored")
	}
	d.NoAccept = !first(owner || !d.StrictMode, d.accept) && !owner
	if !d.StrictMode {
		return
	}
	never := func(keyword, what string) {
		report(Error, keyword, "", "strict mode %s, expected no such line; ignored", what)
	}
	if d.Unicast {
		report(Fatal, "unicast_peer", "", "strict mode has no unicast, expected none of it: later versions of keepalived refuse the file too")
	}
	if len(d.Addresses) > 0 && d.IPv6 && !d.Addresses[0].Prefix.Addr().IsLinkLocalUnicast() {
		report(Error, "virtual_ipaddress", "", "strict mode wants a link-local address first (RFC 9568 section 5.2.9)")
	}
	if d.PreemptDelay > 0 {
		never("preempt_delay", "has no delay")
		d.PreemptDelay = 0
	}
	if d.DownTimerAdverts != 3 {
		never("down_timer_adverts", "has three adverts")
		d.DownTimerAdverts = 3
	}
	if d.accept != nil && *d.accept && !owner && d.Version == 2 {
		never("accept", "has no accept mode in version 2")
		d.NoAccept = true
	}
	if d.garp.lowerPrioRepeat != nil && *d.garp.lowerPrioRepeat > 0 {
		never("garp_lower_prio_repeat", "does not announce again")
	}
	if d.garp.lowerPrioDelay != nil && *d.garp.lowerPrioDelay > 0 {
		never("garp_lower_prio_delay", "does not announce again")
	}
	d.Garp.LowerPrioRepeat, d.Garp.LowerPrioDelay = 0, 0
	if !d.LowerPrioNoAdvert {
		never("lower_prio_no_advert", "does not answer a lower priority")
		d.LowerPrioNoAdvert = true
	}
	if d.HigherPrioSendAdvert {
		never("higher_prio_send_advert", "gives way without a word")
		d.HigherPrioSendAdvert = false
	}
	if len(d.HMAC.Keys) > 0 && d.HMAC.Mode != HMACEnforce {
		report(Error, "auth_hmac", d.HMAC.Mode, "strict mode wants mode enforce, expected that; using it")
		d.HMAC.Mode = HMACEnforce
	}
}
