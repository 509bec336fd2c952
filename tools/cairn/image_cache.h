/* image_cache: the images that cairn-root keeps for `cairn run`, and the saved states of guests (warm_state.h). Both
 * are in the user's cache, and may be made again at any time.
 *
 * An image is an object: digest, names (array), size, states_size, made and used (seconds since 1970), in_use, image
 * (its path). */
#ifndef CAIRN_TOOLS_IMAGE_CACHE_H
#define CAIRN_TOOLS_IMAGE_CACHE_H

#include <stdint.h>

struct err;
struct json_object;

/* List the images, those that were used last first. *ret: an array that the caller owns.
 * Returns 0; -errno with a sentence. */
int image_cache_list(struct json_object **ret, struct err *e);
/* Remove an image, and the states of its guests. Returns 0; -EBUSY: a run uses it; -errno with a sentence. */
int image_cache_remove(struct json_object *image, struct err *e);
/* Remove the states that were last used before a time, in seconds since 1970. Returns their number. */
unsigned image_cache_remove_states(int64_t before_s);
/* Remove the entries that were not used for the longest time, until the cache takes at most CAIRN_CACHE_MAX [20 GiB,
 * and at most half of the file system]. Images that a run uses stay. */
void image_cache_limit(void);

#endif
