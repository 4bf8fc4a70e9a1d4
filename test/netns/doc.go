// Package netns tests real pods on a network that fails: each in a network
// namespace of its own, joined by a bridge, with packets lost, a way cut in one
// direction only, and processes frozen, killed and started again. The tests have
// the build tag netns, and need root, Linux, iproute2, nftables and util-linux:
//
//	make netns
//
// Everything is made inside a network namespace of the test's own: the machine's
// network is not touched, and nothing is left behind however a test ends. Delay
// is left out: not every kernel can (netem), and the simulations of package
// cluster have it.
package netns
