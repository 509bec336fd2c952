/* store: the blobs of an OCI image: a layout folder, or an archive of one (tar, not compressed), whose blobs are read
 * in place.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_STORE_H
#define CAIRN_TOOLS_ROOT_STORE_H

struct err;
struct layer;
struct store;

/* Open a layout folder. Returns 0; -ENOENT; -errno with a sentence. */
int store_open_folder(const char *path, struct store **ret, struct err *e);
/* Open an archive. Returns 0; -ENOENT: the file is no archive of a layout; -errno with a sentence. */
int store_open_archive(const char *path, struct store **ret, struct err *e);
/* Find a file of the layout: "index.json" or "blobs/sha256/HEX".
 * ret: off, size and fd, which the store owns.
 * Returns 0; -ENOENT with a sentence that names the file; -errno. */
int store_find(struct store *s, const char *name, struct layer *ret, struct err *e);
void store_free(struct store *s);

#endif
