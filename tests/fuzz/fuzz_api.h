/* fuzz_api: what the fuzzers of the control plane and their replay in `make check` share.
 *
 * Inputs are text, and those in tests/data/wire and tests/data/script are where fuzzers begin. Beyond what
 * sanitizers see, running one aborts when something is not as it is promised. */
#ifndef CAIRN_TESTS_FUZZ_API_H
#define CAIRN_TESTS_FUZZ_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define WIRE_INPUT_MAX 4096u
#define SCRIPT_INPUT_MAX 8192u

#define must(ok) must_at(ok, #ok, __FILE__, __LINE__)

static inline void must_at(bool ok, const char *what, const char *file, int line)
{
	if (ok)
		return;
	fprintf(stderr, "%s:%d: %s\n", file, line, what);
	abort();
}

/* What a client sends. The same texts and faults come out in one piece, byte by byte, and cut anywhere; what
 * is a text is sent as a line that reads back as the same. Returns how many texts came out. */
unsigned wire_run(const uint8_t *input, size_t len);

/* A VM's configuration as its process gets it (vm_config_check()): how many files come along, then bytes that are
 * changed in one that is right: place (two bytes), value. Of one that is taken all is within its bounds, and no
 * file has two users. Returns whether it is. */
bool config_run(const uint8_t *input, size_t len);

/* A script: a line says who does what, by its first letter, and has its words behind a space.
 *
 *   d TEXT     an admin says TEXT on the daemon's socket; D: with an empty file that comes along
 *   u TEXT     somebody who may nothing does (only root can play both)
 *   q TEXT     somebody says it on the own socket of VM "a", if that is there
 *   a WORDS    how the next request to a VM's process is answered: 0 to 99, an answer's type; -: not at all;
 *              AT:HEX, bytes of the answer, at AT (decimal; beyond the end: it is longer); cut=N: N bytes
 *   e WORDS    the first VM's process says something unasked: an event, with the same words
 *   x          that process dies
 *   r          the daemon ends, and the next one takes over
 *   f PATH TEXT  the same, and meanwhile a file of the state folder is written; in TEXT | is a new line
 *
 * All of it happens in one process, with VMs that are pretended in it, in a folder in memory: nothing else of
 * the host can be written meanwhile. A text has one answer, in its order, as one short line of ASCII; who may
 * nothing learns no name, and is told the same of what is there and what is not; the daemon ends with as many
 * files open as it began with. */

/* Shut this process in: from then on it can write to script_run()'s folder and below `keep` (NULL: nothing)
 * alone. Returns 0 or -errno: it cannot be done here. */
int script_setup(const char *keep);
/* Returns how many answers came that are no errors. */
unsigned script_run(const uint8_t *input, size_t len);
/* Change a script as somebody would who knows the schema. Returns the new length, at most cap. */
size_t script_mutate(uint8_t *input, size_t len, size_t cap, unsigned seed);

#endif
