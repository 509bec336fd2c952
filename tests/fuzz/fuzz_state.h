/* fuzz_state: what the fuzzer of saved states and snapshot trees and its replay in `make check` share.
 *
 * An input is one byte (enum state_kind, STATE_WHOLE) and what somebody put into an image: sections, a saved state or
 * entries' extra data. Everything here is deterministic. */
#ifndef CAIRN_TESTS_FUZZ_STATE_H
#define CAIRN_TESTS_FUZZ_STATE_H

#include <stddef.h>
#include <stdint.h>

enum state_kind {
	STATE_SECTIONS, /* a stream */
	STATE_VMSTATE,	/* 68 KiB from the address space's beginning, then 4 KiB each of definition,
			 * checksums, RAM; the rest is a hole */
	STATE_TREE,	/* entries of STATE_TREE_ENTRY_BYTES: length u16, VM state u8, the extra data */
	STATE_KINDS,
};
/* The checksums are made right first: only who means harm writes such a thing. */
#define STATE_WHOLE 0x80u
#define STATE_TREE_ENTRY_BYTES 768u
#define STATE_INPUT_MAX (96u << 10)

/* Read an input as the VM process and the tools do. Beyond what sanitizers see it aborts when a reader leaves
 * the bounds that its header states, and when tree data that was read encodes to something else.
 * Returns how many sections, definitions, RAM blocks and entries it could read. */
unsigned state_run(const uint8_t *input, size_t len);

/* Input i of state_seeds(), STATE_INPUT_MAX bytes at most. Returns its length. */
size_t state_seeds(void);
size_t state_seed(size_t i, uint8_t *input);

#endif
