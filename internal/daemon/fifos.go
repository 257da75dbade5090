package daemon

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
	"sync"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/notify"
)

// scriptAgain is how soon a FIFO's script that has ended is started anew.
const scriptAgain = time.Second

// fifos are notify_fifo and vrrp_notify_fifo. Every state goes to both.
type fifos struct {
	mu   sync.Mutex
	open []*openFIFO // the main task alone changes it
}

type openFIFO struct {
	config conf.FIFO
	secure bool // how its script is started
	fifo   *notify.FIFO
	cancel context.CancelFunc
	done   chan struct{}
}

// write queues a state for every FIFO, in keepalived's words; it never blocks.
func (f *fifos) write(kind, name, state string, priority uint8) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.open {
		o.fifo.Write(fmt.Sprintf("%s %q %s %d", kind, name, state, priority))
	}
}

// configure opens what is new and closes what is no more; what did not change does not notice.
func (f *fifos) configure(d *Daemon, g *conf.Globals) {
	f.mu.Lock()
	former := f.open
	f.mu.Unlock()
	var keep, gone []*openFIFO
	var fresh []conf.FIFO
	for _, c := range []conf.FIFO{g.NotifyFIFO, g.VRRPNotifyFIFO} {
		if c.Path != "" {
			fresh = append(fresh, c)
		}
	}
	for _, o := range former {
		same := -1
		for k := range fresh {
			if fresh[k].Equal(&o.config) && (o.secure == g.EnableScriptSecurity || len(o.config.Script.Argv) == 0) {
				same = k
			}
		}
		if same < 0 {
			gone = append(gone, o)
			continue
		}
		keep = append(keep, o)
		fresh = append(fresh[:same:same], fresh[same+1:]...)
	}
	f.set(keep)
	closeAll(gone)
	for _, c := range fresh {
		o, err := d.openFIFO(c, g.EnableScriptSecurity)
		if err != nil {
			d.log.Error("no state is written to the fifo", "error", err)
			continue
		}
		keep = append(keep, o)
	}
	f.set(keep)
}

func (f *fifos) set(open []*openFIFO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
}

// close ends all, after what is queued.
func (f *fifos) close() {
	f.mu.Lock()
	open := f.open
	f.open = nil
	f.mu.Unlock()
	closeAll(open)
}

// closeAll waits for all at once.
func closeAll(all []*openFIFO) {
	for _, o := range all {
		o.cancel()
	}
	for _, o := range all {
		<-o.done
	}
}

func (d *Daemon) openFIFO(c conf.FIFO, secure bool) (*openFIFO, error) {
	uid, gid, err := owner(c.User)
	if err != nil {
		return nil, fmt.Errorf("open fifo %s: %w", c.Path, err)
	}
	fifo, err := notify.OpenFIFO(c.Path, uid, gid, d.log)
	if err != nil {
		return nil, err
	}
	o := &openFIFO{config: c, secure: secure, fifo: fifo, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	reading, end := context.WithCancel(context.Background())
	o.cancel = cancel
	var script sync.WaitGroup
	if len(c.Script.Argv) > 0 {
		run := child.Command{Argv: append(c.Script.Argv[:len(c.Script.Argv):len(c.Script.Argv)], c.Path), User: c.Script.User.Name, Group: c.Script.User.Group,
			Grace: stopHooks}
		script.Go(func() { d.read(reading, ctx, run, secure) })
	}
	go func() {
		defer close(o.done)
		fifo.Run(ctx)
		// The script finds the end of the pipe behind the last lines. One that doesn't end by itself is told to.
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			script.Wait()
		}()
		late := time.AfterFunc(scriptLast, end)
		<-ended
		late.Stop()
		end()
	}()
	return o, nil
}

// scriptLast is how long a FIFO's script may read what is left in the pipe after its end.
const scriptLast = 300 * time.Millisecond

// read keeps a FIFO's script running until ctx ends; it is not started again after open has ended.
func (d *Daemon) read(ctx, open context.Context, c child.Command, secure bool) {
	for {
		err := error(nil)
		if secure {
			err = child.Secure(c)
		}
		if err == nil {
			_, err = child.Run(ctx, c)
		}
		if open.Err() != nil {
			return
		}
		d.log.Error("the script of the fifo has ended, it is started again", "command", c.String(), "error", err)
		select {
		case <-time.After(scriptAgain):
		case <-open.Done():
			return
		}
	}
}

// owner is whose a FIFO is; -1: ours.
func owner(u conf.User) (uid, gid int, err error) {
	uid, gid = -1, -1
	if u.Name != "" {
		account, err := user.Lookup(u.Name)
		if err != nil {
			return 0, 0, err
		}
		if uid, err = strconv.Atoi(account.Uid); err != nil {
			return 0, 0, err
		}
		if gid, err = strconv.Atoi(account.Gid); err != nil {
			return 0, 0, err
		}
	}
	if u.Group != "" {
		group, err := user.LookupGroup(u.Group)
		if err != nil {
			return 0, 0, err
		}
		if gid, err = strconv.Atoi(group.Gid); err != nil {
			return 0, 0, err
		}
	}
	return uid, gid, nil
}

// seqs are the numbers of the last transitions of all instances, and under group names those of sync groups.
func (d *Daemon) seqs() map[string]uint64 {
	all := d.groups.seqs()
	for _, u := range d.units {
		all[u.config.Name] = u.instance.Status().Seq
	}
	return all
}

// restate writes the state of each sync group and instance that a reload has left as it was (fifo_write_vrrp_states_on_reload).
func (d *Daemon) restate(ctx context.Context, before map[string]uint64) {
	d.groups.restate(before)
	for _, u := range d.units {
		if seq, kept := before[u.config.Name]; kept {
			u.instance.Restate(ctx, seq)
		}
	}
}
