// Package nstest gives tests hosts of their own: network namespaces (network_namespaces(7)) joined by veth
// pairs and bridges, programs run inside them, and a packet capture that Wireshark can dissect.
// Only tests import it.
package nstest
