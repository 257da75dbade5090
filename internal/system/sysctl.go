package system

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Forwarding reports whether the interface forwards IPv6 packets, which is what makes a neighbour advertisement
// carry the Router flag (RFC 4861 section 4.4). It reads net.ipv6.conf.NAME.forwarding of the network namespace
// of the calling thread. A kernel without IPv6 is an error.
func Forwarding(name string) (bool, error) {
	if err := CheckInterfaceName(name); err != nil {
		return false, err
	}
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "forwarding"))
	if err != nil {
		return false, fmt.Errorf("read IPv6 forwarding of %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)) != "0", nil
}
