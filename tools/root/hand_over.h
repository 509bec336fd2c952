/* hand_over: the message by which cairn-root --hand-over gives its caller the file of the image, which it has locked as
 * a run does (cache.h). The lock belongs to the open file, so it is the caller's from then on. */
#ifndef CAIRN_TOOLS_ROOT_HAND_OVER_H
#define CAIRN_TOOLS_ROOT_HAND_OVER_H

/* A message of base/channel.h without a body, with one fd. */
#define HAND_OVER_VERSION 1
#define HAND_OVER_TYPE 1

#endif
