// Package wire defines the bytes on a link between two pods: the frames, with an
// Append and a Parse function for each, and the names of pods, peers and groups. It
// has no goroutine, no state and no I/O; everything in it is safe for concurrent use
// on different buffers.
//
// A frame is a header and a payload. Numbers are big endian.
//
//	type    1
//	length  3  of the payload
//
// The types, with the size of each field in bytes; a text has one byte with its
// length in front:
//
//	0x01 HELLO      magic 4 (xpod), versions 1+1, capabilities 4, nonce 32,
//	                incarnation 8, clock 8, instance 8, count 1, keys n×8,
//	                address 1…255, build 0…64, rest                 …1024
//	0x02 PROOF      have 8, tokens 8, MAC 32, each secret n×8       48…304
//	                have 8, tokens 8                                16
//	0x03 USE        session 8                                       8
//	0x04 GOODBYE    reason 1, text to the end                       1…256
//	0x10 PING       id 4, clock 8, peers 4                          16
//	0x11 PONG       id 4, clock 8, read 8                           20
//	0x12 TALLY      session 8, read 8                               16
//	0x13 COMPLAINT  n×(address, reason 0…64)                        0…10272
//	0x14 TOKENS     secrets of peer tokens 8                        8
//	0x15 ABOUT      count 1, keys n×8, count 1, own n×address, rest n×address
//	                (address: size 1, IP 4 or 16, port 2)           2…64970
//	0x16 LOAD       peers 4, movable 4, stage 1                     9
//	0x20+kind       entries of the directory of one kind            …16384
//	0x40 FWD        flags 1, destination 36, epoch 8, Transport     83…8865
//	0x41 BOUNCE     as FWD                                          83…8865
//	0x42 MOVED      destination 36, pod 8, epoch 8                  52
//
// The flags of FWD and BOUNCE are 1, second attempt, and 2, away.
//
// A directory entry has the fields of its kind, in this order: name 37, member 36
// (only if the name is a group), pod 8, epoch 8, id 4, flag 1.
//
//	 1 REGISTER     name member epoch          45, group 81
//	 2 UNREGISTER   name member                37, group 73
//	 3 EVICT        name pod epoch             53
//	 4 VIEW         hash (as epoch)            8
//	 5 SUBSCRIBE    name id                    41
//	 6 UNSUBSCRIBE  name                       37
//	 7 ONLINE       name member pod epoch id   57, group 93
//	 8 OFFLINE      name member id             41, group 77
//	 9 ANSWERED     name id                    41
//	10 WHO_HAS      name id flag               42
//	11 I_HAVE       name member pod epoch id flag  58, group 94
//	12 NOBODY       name id flag               42
//	13 LEAVE        flag (0)                   1
//	14 DIGEST       XOR (as epoch), count (as id)  12
//	15 AWAIT        name                       37
//
// Parsers check the limit first, and return parts of the payload only where their
// comment says so. A parser that accepts a payload accepts all of it: appending what
// it returned gives the same bytes. A frame whose type is not [Type.Known] is skipped;
// after any error the link must be closed.
//
// docs/protocol.md, "Between pods", says when each frame is sent; ADR-0014 says why
// there are links, ADR-0016 why the two ends trust each other. The files in
// testdata/vectors define the protocol between versions of this program.
package wire
