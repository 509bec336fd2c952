/* seed_image: seed images of cloud-init (NoCloud), as files by name: meta-data, user-data, network-config. cairn-seed
 * reads and writes them. */
#ifndef CAIRN_TOOLS_SEED_IMAGE_H
#define CAIRN_TOOLS_SEED_IMAGE_H

#include <stdbool.h>

struct err;
struct json_object;

#define SEED_ID_BYTES 64
#define SEED_CONFIG_LINE "#cloud-config\n" /* the first line of user-data in YAML */

/* Write an image. files: object of texts. force: replace an existing file. Returns 0; -EEXIST; -errno. */
int seed_image_write(struct json_object *files, const char *path, bool force, struct err *e);
/* Return whether the file is an image with cloud-init's label. */
bool seed_image_is(const char *path);
/* Read an image. The caller owns *ret_files. Returns 0; -EIO: cairn-seed could not read it; -errno. */
int seed_image_read(const char *path, struct json_object **ret_files, struct err *e);
/* Give the instance another id, and another host name unless it is NULL: change meta-data, and the host name in
 * user-data. Texts that are not JSON are changed line by line. */
void seed_renew(struct json_object *files, const char *id, const char *hostname);

/* Generate an instance id. Returns 0 or -errno. */
int seed_id_make(char id[SEED_ID_BYTES], struct err *e);
/* Put an object as the text of a file, behind the line `first`. */
void seed_config_put(struct json_object *files, const char *name, const char *first, struct json_object *o);

#endif
