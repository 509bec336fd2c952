/* fuzz_api: declarations shared by the fuzzers of the control plane and their replay in `make
 * check`.
 *
 * Inputs are text; tests/data/wire and tests/data/script hold the seeds. Beyond the sanitizers'
 * checks, a run aborts when a property stated here does not hold. */
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

/* Feed bytes as a client sends them. The same texts and faults must come out in one piece, byte by
 * byte, and cut anywhere; a text is printed as a line that parses to the same text. Returns the
 * number of texts. */
unsigned wire_run(const uint8_t *input, size_t len);

/* Check a VM's configuration (vm_config_check()). The input is the number of fds, then changes to a
 * valid configuration: offset (two bytes), value. In an accepted configuration all fields are
 * within bounds and no file is used twice. Returns whether it is accepted. */
bool config_run(const uint8_t *input, size_t len);

/* A script: the first letter of a line says who acts, and the words after the space say how.
 *
 *   d TEXT     an admin sends TEXT to the daemon's socket; D: with the fd of an empty file
 *   u TEXT     a user without permissions sends TEXT (only when root runs the test)
 *   q TEXT     a client sends TEXT to the QMP socket of VM "a", if it exists
 *   a WORDS    answer to the next request to a VM process: 0 to 99: message type; -: no answer;
 *   AT:HEX: bytes at offset AT (decimal; beyond the end: makes it longer); cut=N: N bytes
 *   e WORDS    the first VM process sends an unasked event, with the same words
 *   x          that process dies, and unless there was a line a or e, the daemon has done what follows
 *   r          the daemon ends and the next one starts
 *   f PATH TEXT  as r, but in between PATH in the state folder is written; | in TEXT is a newline
 *
 * Everything happens in one process, with VMs simulated in it, in a tmpfs: nothing else on the host
 * can be written.
 * Checked: each text has one answer, in order, as one short ASCII line. The user without
 * permissions learns no name and gets the same answers whether a thing exists or not. The daemon
 * ends with as many open files as it began with. */

/* Confine this process: it can write only to script_run()'s folder and below `keep` (NULL:
 * nothing). Returns 0; -errno when the host does not support it. */
int script_setup(const char *keep);
/* Run a script. patient: each text has an answer, so wait for it; otherwise a text is given up after a moment once VM
 * processes may send malformed messages. Returns the number of answers that are not errors. */
unsigned script_run(const uint8_t *input, size_t len, bool patient);
/* Mutate a script with knowledge of the schema. Returns the new length, at most cap. */
size_t script_mutate(uint8_t *input, size_t len, size_t cap, unsigned seed);

#endif
