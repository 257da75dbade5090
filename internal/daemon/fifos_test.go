package daemon

import (
	"log/slog"
	"path/filepath"
	"testing"

	"pgvrrp/internal/conf"
)

// A script that runs already is started anew when a reload changes enable_script_security; a FIFO without one does not notice.
func TestFIFOsAreAsSecureAsTheFileSays(t *testing.T) {
	dir := t.TempDir()
	g := &conf.Globals{
		NotifyFIFO:     conf.FIFO{Path: filepath.Join(dir, "script"), Script: conf.Command{Argv: []string{"/bin/cat"}}},
		VRRPNotifyFIFO: conf.FIFO{Path: filepath.Join(dir, "plain")},
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	t.Cleanup(d.fifos.close)
	find := func(c conf.FIFO) *openFIFO {
		for _, o := range d.fifos.open {
			if o.config.Path == c.Path {
				return o
			}
		}
		t.Fatalf("%s is not open", c.Path)
		return nil
	}
	d.fifos.configure(d, g)
	script, plain := find(g.NotifyFIFO), find(g.VRRPNotifyFIFO)
	d.fifos.configure(d, g)
	if find(g.NotifyFIFO) != script {
		t.Error("nothing changed, and the script is started anew")
	}
	g.EnableScriptSecurity = true
	d.fifos.configure(d, g)
	select {
	case <-script.done:
	default:
		t.Error("the script that was started without enable_script_security runs on")
	}
	if got := find(g.NotifyFIFO); got == script || !got.secure {
		t.Error("no script is started with enable_script_security")
	}
	if find(g.VRRPNotifyFIFO) != plain {
		t.Error("a fifo without a script is opened anew")
	}
}
