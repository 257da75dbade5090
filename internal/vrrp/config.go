package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// MaxPreemptDelay is keepalived's limit.
const MaxPreemptDelay = 1000 * time.Second

// Config is what one virtual router needs to know. The zero value of a field is not a default: the caller fills all.
type Config struct {
	Version              Version
	VRID                 uint8
	Priority             uint8         // 1 to 255; 255 is the address owner
	AdvertInterval       time.Duration // AdvertisementInterval: version 2 whole seconds to 255 s, version 3 10 ms to 40.95 s
	DownTimerAdverts     int           // adverts missed before takeover, 1 to 100, RFC: 3
	Preempt              bool          // PreemptMode; an owner preempts in any case
	PreemptDelay         time.Duration // 0 to 1000 s, counted from the first advert of a lower priority
	HigherPrioSendAdvert bool          // one last advert before giving way to a higher priority
	LowerPrioNoAdvert    bool          // don't answer a lower priority (RFC 3768 and 5798; RFC 9568 answers)
	Source               netip.Addr    // our primary address, for the tie-break of section 6.4.3; zero: unknown, loses every tie

	AddressesAfterNotify bool          // vip_after_notify: the VIPs wait for the hook's exit code 0
	NotifyRetry          time.Duration // Fault for so long after a failed hook

	// TimerExpiredBackup (keepalived's timer_expired_backup): the highest priority of the others, 1 to 254; 0: off. An
	// Active router whose own timer fires so late that one of that priority can have taken over goes to Backup without a
	// word instead of advertising. Only with Preempt off: otherwise it would come back at once.
	TimerExpiredBackup uint8

	// Grouped: the router is a member of a sync group, see Group. It becomes Active by GroupActive alone, and asks with
	// Request when it could. Not with Gated.
	Grouped bool

	Gated bool // mastership needs a grant: Granted and Revoked decide, adverts are hints; not for an owner
}

// check names everything that is wrong with c.
func (c Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("configure virtual router %d: "+format, append([]any{c.VRID}, args...)...))
	}
	if err := checkInterval(c.Version, c.AdvertInterval); err != nil {
		bad("%w", err)
	}
	if c.VRID == 0 {
		bad("virtual router id 0: want 1 to 255")
	}
	if c.Priority == 0 {
		bad("priority 0: want 1 to 255")
	}
	if c.DownTimerAdverts < 1 || c.DownTimerAdverts > 100 {
		bad("down timer of %d adverts: want 1 to 100", c.DownTimerAdverts)
	}
	if c.PreemptDelay < 0 || c.PreemptDelay > MaxPreemptDelay {
		bad("preempt delay %v: want 0s to %v", c.PreemptDelay, MaxPreemptDelay)
	}
	if c.NotifyRetry < 0 {
		bad("notify retry %v: want 0s or more", c.NotifyRetry)
	}
	if c.TimerExpiredBackup == PriorityOwner {
		bad("timer expired backup 255: want 1 to 254")
	}
	if c.TimerExpiredBackup > 0 && c.Preempt {
		bad("timer expired backup with preemption: want one of the two")
	}
	if c.Gated && c.Grouped {
		bad("sync group and grant: want one of the two")
	}
	if c.Gated && c.Priority == PriorityOwner {
		bad("priority 255: an address owner takes mastership without asking, so it can't need a grant")
	}
	if c.Version == 2 && c.Source.IsValid() && !c.Source.Unmap().Is4() {
		bad("source %v: version 2 knows IPv4 only", c.Source)
	}
	return errors.Join(errs...)
}
