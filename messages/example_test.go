package messages_test

import (
	"fmt"
	"log"
	"slices"

	"github.com/crosspod/crosspod/messages"
)

// The id of a WireGuard peer is made from the text of its public key.
func ExampleHashID() {
	id := messages.HashID("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	fmt.Println(id)
	// Output: sha-kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY=
}

// A message from alice to bob: on its way to the relay it names bob, and the
// relay puts the name of alice in that place.
func ExampleSetTransportID() {
	alice, bob := messages.HashID("alice"), messages.HashID("bob")

	msg := messages.AppendTransport(nil, bob, []byte("hello")) // alice sends
	messages.SetTransportID(msg, alice)                        // the relay delivers

	from, payload, err := messages.ParseTransport(msg) // bob receives
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%s from alice: %t\n", payload, from == alice)
	// Output: hello from alice: true
}

// The first message of a connection and its answer.
func ExampleAppendAuth() {
	auth, err := messages.AppendAuth(nil, messages.HashID("alice"), []byte("a token"))
	if err != nil {
		log.Panic(err)
	}
	id, token, err := messages.ParseAuth(auth)
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("%s with %s\n", id, token)

	answer, err := messages.AppendAuthResponse(nil, "rels://relay.example.com:443")
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(messages.ParseAuthResponse(answer))
	// Output:
	// sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA= with a token
	// rels://relay.example.com:443 <nil>
}

// More ids than fit in one message go in several.
func ExampleAppendPeerList() {
	var ids []messages.PeerID
	for i := range 500 {
		ids = append(ids, messages.HashID(fmt.Sprint("peer-", i)))
	}
	for some := range slices.Chunk(ids, messages.MaxPeersPerList) {
		msg := messages.AppendPeerList(nil, messages.TypeSubscribePeerState, some)
		list, err := messages.ParsePeerList(msg, messages.TypeSubscribePeerState)
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(list.Len(), "ids in", len(msg), "bytes")
	}
	// Output:
	// 244 ids in 8786 bytes
	// 244 ids in 8786 bytes
	// 12 ids in 434 bytes
}

// A reader looks at the type first.
func ExampleParseType() {
	for _, msg := range [][]byte{
		messages.AppendHealthCheck(nil),
		{messages.Version, 42},
		{2, 5},
	} {
		fmt.Println(messages.ParseType(msg))
	}
	// Output:
	// HealthCheck <nil>
	// Type(42) <nil>
	// Type(0) messages: unsupported protocol version
}
