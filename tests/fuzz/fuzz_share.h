/* fuzz_share: declarations shared by the fuzzer of cairn-share's requests and its replay in `make check`.
 *
 * An input is a byte, whose lowest bit makes the folder read-only, and a sequence of requests: the opcode, the number
 * of the node, two bytes of length, and what follows the header of the request. The upper three bits of a node's number
 * are its generation. */
#ifndef CAIRN_TESTS_FUZZ_SHARE_H
#define CAIRN_TESTS_FUZZ_SHARE_H

#include <stddef.h>
#include <stdint.h>

#define SHARE_INPUT_MAX 8192u

/* Serve the requests on a real folder in TMPDIR, which has a file "a" (node 2), a folder "d" (3) and a symbolic link
 * "l" (4). Beyond the sanitizers' checks, abort if an answer is malformed or the requests change anything outside the
 * folder. Returns the number of requests that had no error. */
unsigned share_run(const uint8_t *input, size_t len);

/* Write input i of share_seeds(), at most SHARE_INPUT_MAX bytes. Returns its length. *ret_requests: how many of its
 * requests have no error. */
size_t share_seeds(void);
size_t share_seed(size_t i, uint8_t *input, unsigned *ret_requests);

#endif
