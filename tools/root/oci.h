/* oci: reads the index, manifest and configuration of an OCI image (OCI image specification 1.1), or of a Docker image
 * with the same content. All of it is untrusted: each blob is checked against its digest and size before it is parsed;
 * the layers are checked while they are read (layer.h).
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_OCI_H
#define CAIRN_TOOLS_ROOT_OCI_H

#include "tools/root/layer.h"

#include <json-c/json.h>

struct err;
struct store;

#define OCI_LAYERS_MAX 512

struct image {
	char digest[2 * SHA256_DIGEST_SIZE + 1]; /* of the manifest, in hexadecimal */
	struct json_object *config; /* for users: entrypoint, cmd, env, user, working_dir; owned */
	struct layer *layers;
	unsigned n;
};

/* Find an image.
 * tag: NULL: the store has only one.
 * Returns 0; -ENOENT; -errno with a sentence. ret: free with image_done(), also after an error. */
int oci_find(struct store *s, const char *tag, struct image *ret, struct err *e);
void image_done(struct image *i);

#endif
