/* warm_key: everything that the saved state of a guest of `cairn run` depends on. Runs with equal keys may begin from
 * the same state. A key has struct vm_config without the members that differ in each run, the identities of the files
 * that the guest and the VM process use, and the host's boot id. */
#ifndef CAIRN_TOOLS_WARM_KEY_H
#define CAIRN_TOOLS_WARM_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config;
struct stat;
struct warm_key;

#define WARM_KEY_MAX (256 * 1024)

/* Make the key of a VM, before the agent is in its initramfs.
 * root: as for initrd_agent_add(). program: the VM process's.
 * ret_why: why the guest has no saved state, for a sentence; set with NULL.
 * Returns the key, which the caller frees; NULL. */
struct warm_key *warm_key_new(const struct config *c, const char *root, const char *program, const char **ret_why);
void warm_key_free(struct warm_key *k);

/* Return whether the key with these bytes has the identity of a file. */
bool warm_key_has_file(const uint8_t *key, size_t len, const struct stat *file);
const uint8_t *warm_key_bytes(const struct warm_key *k, size_t *ret_len);
/* A name for a file, which may be that of another key, too. */
const char *warm_key_name(const struct warm_key *k);
/* Return whether the files that were read after warm_key_new() are those of the key. */
bool warm_key_holds(const struct warm_key *k);

#endif
