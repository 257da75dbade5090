package instance

import (
	"fmt"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

func (i *Instance) do(now time.Time, a vrrp.Action) {
	switch a.Kind {
	case vrrp.SendAdvert:
		i.sendAdvert(a.Priority)
	case vrrp.AddAddresses:
		if i.setAddresses(i.held()); !i.refused {
			i.setRoutes(true)
		}
	case vrrp.RemoveAddresses:
		i.opt.Network.StopAnnouncing()
		i.setRoutes(false)
		i.setAddresses(nil)
		if i.free() {
			i.cleared()
		}
	case vrrp.Announce:
		i.announce()
	case vrrp.AnnounceAgain:
		i.opt.Network.AnnounceAgain()
	case vrrp.Transition:
		i.transition(now, a)
	case vrrp.Contention:
		i.opt.Hooks.Post(HookEvent{State: "MASTER_RX_LOWER_PRI", Seq: a.Seq, Priority: i.router.EffectivePriority(), At: now, Contention: true})
	case vrrp.Request:
		i.log.Debug("ask for mastership", "reason", a.Reason)
		if i.Gated() {
			i.opt.Grants.Request(a.Reason)
		}
	case vrrp.GiveUp:
		i.giveUp(now, a.Reason)
	}
}

func (i *Instance) sendAdvert(priority uint8) {
	i.advert.Version, i.advert.VRID, i.advert.Priority = vrrp.Version(i.cfg.Version), i.cfg.VRID, priority
	i.advert.Interval = i.cfg.AdvertInterval
	i.advert.AuthType = 0
	if i.cfg.HasPassword {
		i.advert.AuthType = vrrp.AuthPassword
		i.advert.Auth = vrrp.Password(i.cfg.Password)
	}
	i.advert.Addrs = i.carried
	form := vrrp.ChecksumPseudoHeader
	if i.cfg.ChecksumPlain {
		form = vrrp.ChecksumPlain
	}
	ttl := vrrp.TTL
	if i.cfg.Unicast {
		ttl = i.cfg.UnicastTTL
	}
	var failed error
	sent := false
	encode := vrrp.AppendAdvert
	if i.signer != nil {
		i.signer.Next(time.Now())
		encode = i.signer.AppendAdvert
	}
	for _, dst := range i.destinations {
		// A checksum with a pseudo header covers the destination, so each peer gets a packet of its own.
		var err error
		if i.packet, err = encode(i.packet[:0], &i.advert, i.source, dst, form); err == nil {
			if priority != vrrp.PriorityLeaving && time.Since(i.stepped) >= i.peersWait() {
				return // we were stopped since this was decided, and another may be master; the next timer is late, and listens first
			}
			err = i.opt.Network.Send(i.packet, i.source, dst, ttl)
		}
		if err != nil {
			failed = fmt.Errorf("to %s: %w", dst, err)
		} else {
			sent = true
		}
	}
	if sent {
		i.sending.failures, i.sending.unproved = 0, ""
		if priority != vrrp.PriorityLeaving {
			// As from when the loop was woken: we may have been stopped for long since.
			i.opt.Network.Trust(i.woke + i.peersWait())
		}
	} else if i.sending.failures++; i.sending.failures >= i.cfg.DownTimerAdverts && i.sending.reason == "" {
		// Our peers have heard nothing for as long as they wait: one of them is master now. tick tells the router.
		i.sending.fault(fmt.Sprintf("adverts cannot be sent: %v", failed))
	}
	now := time.Now()
	i.mu.Lock()
	i.status.sendErr = ""
	complain := false
	if failed == nil {
		i.status.counters.AdvertsSent++
		if priority == vrrp.PriorityLeaving {
			i.status.counters.PriorityZeroSent++
		}
	} else {
		i.status.counters.SendErrors++
		i.status.sendErr = failed.Error()
		if complain = i.status.complainedSend.IsZero() || now.Sub(i.status.complainedSend) >= complainEvery; complain {
			i.status.complainedSend = now
		}
	}
	i.mu.Unlock()
	if complain {
		i.log.Warn("send advert", "error", failed)
	}
}

func (i *Instance) transition(now time.Time, a vrrp.Action) {
	from, to := stateName(a.From), stateName(a.To)
	if a.To == vrrp.Initialize {
		to = control.StateStop
	}
	i.hookSeq, i.hookBy = 0, time.Time{}
	i.log.Info("transition", "from", from, "to", to, "reason", a.Reason, "priority", a.Priority)
	t := control.Transition{Seq: a.Seq, At: now, From: from, To: to, Priority: a.Priority, Reason: a.Reason}
	i.mu.Lock()
	i.status.transition(t)
	i.mu.Unlock()
	if i.opt.OnTransition != nil {
		i.opt.OnTransition(control.Event{Instance: i.Name(), Transition: t})
	}
	ev := HookEvent{State: to, Seq: a.Seq, Priority: a.Priority, At: now}
	if a.To == vrrp.Active && i.cfg.VIPAfterNotify > 0 {
		i.hookSeq, i.hookBy, ev.Deadline = a.Seq, now.Add(i.cfg.VIPAfterNotify), i.cfg.VIPAfterNotify
	}
	i.opt.Hooks.Post(ev)
}

func stateName(s vrrp.State) string {
	switch s {
	case vrrp.Backup:
		return control.StateBackup
	case vrrp.Active:
		return control.StateMaster
	case vrrp.Fault:
		return control.StateFault
	}
	return control.StateInit
}
