/* key_codes: names and numbers of keys. The code of a key is that of linux/input-event-codes.h. */
#ifndef CAIRN_BASE_KEY_CODES_H
#define CAIRN_BASE_KEY_CODES_H

#include <stdint.h>

struct err;

/* Return the scan code of set 1, with 0xe000 if it has the prefix 0xe0; 0: a keyboard lacks the key. */
unsigned key_set_1(uint16_t code);
/* Find the key for the number that a VNC client sends with QEMU's extended key event (codeset rfb): the scan code of
 * set 1, in which the bit 0x80 stands for the prefix. Returns 0 if there is none. */
uint16_t key_code_of_rfb(unsigned long number);
/* Check the name of a codeset, one of virsh's words. Returns 0; -EINVAL. */
int key_codeset_check(const char *codeset, struct err *e);
/* Find the key for a word: a name such as KEY_ENTER (codeset linux), or a number. Returns 0; -EINVAL. */
int key_code(const char *codeset, const char *word, uint16_t *ret, struct err *e);

/* Find the key for QEMU's name of it, such as ret (QKeyCode in QEMU's qapi/ui.json). Returns 0; -EINVAL. */
int key_code_of_qemu(const char *name, uint16_t *ret, struct err *e);

#endif
