/* fuzz_state: declarations shared by the fuzzer of saved states and snapshot trees and its replay
 * in `make check`.
 *
 * An input is one byte (enum state_kind, STATE_WHOLE) and the content of an image: sections, a
 * saved state, or extra data of snapshot entries. Everything is deterministic. */
#ifndef CAIRN_TESTS_FUZZ_STATE_H
#define CAIRN_TESTS_FUZZ_STATE_H

#include <stddef.h>
#include <stdint.h>

enum state_kind {
	STATE_SECTIONS, /* a stream of sections */
	/* 68 KiB from the start of the address space, then 4 KiB each of definition, checksums and
	 * RAM; the rest is a hole. */
	STATE_VMSTATE,
	STATE_TREE,	/* entries of STATE_TREE_ENTRY_BYTES: length u16, VM state u8, the extra data */
	STATE_KINDS,
};
/* Compute valid checksums first, as an attacker would. */
#define STATE_WHOLE 0x80u
#define STATE_TREE_ENTRY_BYTES 768u
#define STATE_INPUT_MAX (96u << 10)

/* Read an input as the VM process and the tools do. Beyond the sanitizers' checks, it aborts when a
 * reader leaves the bounds that its header states, and when tree data encodes to something else
 * than was read. Returns the number of sections, definitions, RAM blocks and entries that could be
 * read. */
unsigned state_run(const uint8_t *input, size_t len);

/* Write input i of state_seeds(), at most STATE_INPUT_MAX bytes. Returns its length. */
size_t state_seeds(void);
size_t state_seed(size_t i, uint8_t *input);

#endif
