package system

import (
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// procMessage is a message of the connector, with its netlink header.
func procMessage(what uint32, data ...uint32) []byte {
	b := appendMessage(nil, message{kind: unix.NLMSG_DONE}, 0, 0)
	for _, v := range append([]uint32{cnProc, cnProc, 0, 7, 40, what, 0, 0, 0}, data...) {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	return b
}

func TestProcEvents(t *testing.T) {
	vm, err := bpf.NewVM(processesOnly())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		message []byte
		pass    bool
		want    procEvent
	}{
		{"answer", procMessage(procNone, uint32(unix.EPERM)), true, procEvent{what: procNone, ack: 7, refused: unix.EPERM}},
		{"fork", procMessage(procFork, 5, 4, 9, 9), true, procEvent{what: procFork, ack: 7, parent: 4, pid: 9}},
		{"thread", procMessage(procFork, 4, 4, 9, 4), false, procEvent{}},
		{"exec", procMessage(procExec, 9, 9), true, procEvent{what: procExec, ack: 7, pid: 9}},
		{"name", procMessage(procComm, 9, 9, 1, 2, 3, 4), true, procEvent{what: procComm, ack: 7, pid: 9}},
		{"name of a thread", procMessage(procComm, 9, 4, 1, 2, 3, 4), false, procEvent{}},
		{"exit", procMessage(procExit, 9, 9, 0, 17, 4, 4), true, procEvent{what: procExit, ack: 7, pid: 9}},
		{"exit of a thread", procMessage(procExit, 9, 4, 0, 17, 4, 4), false, procEvent{}},
		{"another user", procMessage(4, 9, 9, 0, 0), false, procEvent{}},
		{"core dump", procMessage(0x40000000, 9, 9, 4, 4), false, procEvent{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := vm.Run(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			if pass := n > 0; pass != tt.pass {
				t.Errorf("the filter lets it in: got %v, want %v", pass, tt.pass)
			}
			got, ok := parseProcEvent(tt.message[unix.SizeofNlMsghdr:])
			if ok != tt.pass || ok && got != tt.want {
				t.Errorf("got %+v %v, want %+v %v", got, ok, tt.want, tt.pass)
			}
			for n := range len(tt.message) - unix.SizeofNlMsghdr {
				parseProcEvent(tt.message[unix.SizeofNlMsghdr:][:n]) // must not panic
			}
		})
	}
}
