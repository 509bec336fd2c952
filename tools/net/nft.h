/* nft: runs commands of nft by libnftables, in the calling process's network namespace. */
#ifndef CAIRN_TOOLS_NET_NFT_H
#define CAIRN_TOOLS_NET_NFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_object;
struct nft;

/* Returns NULL, with a sentence, if the kernel has no nf_tables or the library cannot be set up. The caller frees it
 * with nft_close(), which accepts NULL. */
struct nft *nft_open(struct err *e);
void nft_close(struct nft *n);

/* Run commands as one transaction. Returns 0; -errno with a sentence; -EPERM also if a table belongs to another
 * process. */
int nft_run(struct nft *n, const char *commands, struct err *e);
/* Run a command that lists something. ret: the array "nftables" of its JSON, in the object *ret_owner, which the
 * caller frees.
 * Returns 0; -errno with a sentence. */
int nft_list(struct nft *n, const char *command, struct json_object **ret_owner, struct json_object **ret, struct err *e);
/* Run a command that lists something, in nft's own language. *ret: its text, which lasts until the next command.
 * Returns 0; -errno with a sentence. */
int nft_print(struct nft *n, const char *command, const char **ret, struct err *e);

#define NFT_TABLE_NAME_MAX 256

struct nft_table {
	char family[8], name[NFT_TABLE_NAME_MAX];
	bool is_owned; /* by another process, so nobody else can change it */
};

/* List the tables of all families. Asks the kernel: the library of nft 1.0.6 prints random bytes for the flag of a
 * table that a process owns. *ret: the caller frees it. Returns 0; -errno with a sentence. */
int nft_tables(struct nft *n, struct nft_table **ret, size_t *ret_n, struct err *e);
/* Find out whether the family bridge has a table. Asks the kernel for this table alone: the library would read all sets
 * of all tables. Returns 0; -errno with a sentence. */
int nft_has_bridge_table(struct nft *n, const char *table, bool *ret, struct err *e);

#define NFT_KEY_MAX 48
#define NFT_DATA_MAX 16

/* An element of a set or map as the kernel has it: in network byte order, each part of a concatenation in a multiple of
 * 4 bytes. */
struct nft_element {
	uint8_t key[NFT_KEY_MAX], data[NFT_DATA_MAX];
	size_t key_bytes, data_bytes;
};

/* Read the elements of one set or map of such a table, and nothing else. *ret: the caller frees it; NULL if there are
 * none. Returns 0; -errno with a sentence. */
int nft_bridge_elements(struct nft *n, const char *table, const char *set, struct nft_element **ret, size_t *ret_n, struct err *e);

/* Return whether a name of a table or chain that somebody else chose can stand in a command. */
bool nft_name_is_plain(const char *name);

#endif
