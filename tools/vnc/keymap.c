#include "tools/vnc/keymap.h"
#include "base/util.h"

#include <linux/input-event-codes.h>
#include <rfb/keysym.h>
#include <stddef.h>
#include <string.h>

/* The printing keys from KEY_1 on, in the order of Linux's codes; a blank where the code is no printing key. */
#define FIRST KEY_1
static const char without_shift[] = "1234567890-=  qwertyuiop[]  asdfghjkl;'` \\zxcvbnm,./";
static const char with_shift[] = "!@#$%^&*()_+  QWERTYUIOP{}  ASDFGHJKL:\"~ |ZXCVBNM<>?";

/* AltGr (XK_Mode_switch, ISO_Level3_Shift) is missing: it chose among the signs of the client's keyboard, and a guest
 * with the US layout would take it for Alt. */
static const struct {
	uint16_t keysym, code;
} keys[] = {
	{ XK_space, KEY_SPACE }, { XK_BackSpace, KEY_BACKSPACE }, { XK_Tab, KEY_TAB }, { XK_Return, KEY_ENTER },
	{ XK_Linefeed, KEY_ENTER }, { XK_Escape, KEY_ESC }, { XK_Delete, KEY_DELETE }, { XK_Home, KEY_HOME }, { XK_Left, KEY_LEFT },
	{ XK_Up, KEY_UP }, { XK_Right, KEY_RIGHT }, { XK_Down, KEY_DOWN }, { XK_Prior, KEY_PAGEUP }, { XK_Next, KEY_PAGEDOWN },
	{ XK_End, KEY_END }, { XK_Insert, KEY_INSERT }, { XK_Menu, KEY_COMPOSE }, { XK_Pause, KEY_PAUSE },
	{ XK_Scroll_Lock, KEY_SCROLLLOCK }, { XK_Num_Lock, KEY_NUMLOCK }, { XK_Caps_Lock, KEY_CAPSLOCK }, { XK_Print, KEY_SYSRQ },
	{ XK_Sys_Req, KEY_SYSRQ }, { XK_Shift_L, KEY_LEFTSHIFT }, { XK_Shift_R, KEY_RIGHTSHIFT }, { XK_Control_L, KEY_LEFTCTRL },
	{ XK_Control_R, KEY_RIGHTCTRL }, { XK_Alt_L, KEY_LEFTALT }, { XK_Alt_R, KEY_RIGHTALT }, { XK_Meta_L, KEY_LEFTALT },
	{ XK_Meta_R, KEY_RIGHTALT }, { XK_Super_L, KEY_LEFTMETA }, { XK_Super_R, KEY_RIGHTMETA },
	{ 0xfe20 /* ISO_Left_Tab */, KEY_TAB }, { XK_KP_Enter, KEY_KPENTER },
	{ XK_KP_Multiply, KEY_KPASTERISK }, { XK_KP_Add, KEY_KPPLUS }, { XK_KP_Subtract, KEY_KPMINUS }, { XK_KP_Divide, KEY_KPSLASH },
	{ XK_KP_Decimal, KEY_KPDOT }, { XK_KP_Delete, KEY_KPDOT }, { XK_KP_Separator, KEY_KPCOMMA }, { XK_KP_Equal, KEY_KPEQUAL },
	{ XK_KP_0, KEY_KP0 }, { XK_KP_1, KEY_KP1 }, { XK_KP_2, KEY_KP2 }, { XK_KP_3, KEY_KP3 }, { XK_KP_4, KEY_KP4 },
	{ XK_KP_5, KEY_KP5 }, { XK_KP_6, KEY_KP6 }, { XK_KP_7, KEY_KP7 }, { XK_KP_8, KEY_KP8 }, { XK_KP_9, KEY_KP9 },
	{ XK_KP_Insert, KEY_KP0 }, { XK_KP_End, KEY_KP1 }, { XK_KP_Down, KEY_KP2 }, { XK_KP_Next, KEY_KP3 }, { XK_KP_Left, KEY_KP4 },
	{ XK_KP_Begin, KEY_KP5 }, { XK_KP_Right, KEY_KP6 }, { XK_KP_Home, KEY_KP7 }, { XK_KP_Up, KEY_KP8 }, { XK_KP_Prior, KEY_KP9 },
	{ XK_F1, KEY_F1 }, { XK_F2, KEY_F2 }, { XK_F3, KEY_F3 }, { XK_F4, KEY_F4 }, { XK_F5, KEY_F5 }, { XK_F6, KEY_F6 },
	{ XK_F7, KEY_F7 }, { XK_F8, KEY_F8 }, { XK_F9, KEY_F9 }, { XK_F10, KEY_F10 }, { XK_F11, KEY_F11 }, { XK_F12, KEY_F12 },
};

struct keymap_key keymap_find(uint32_t keysym)
{
	const char *at;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].keysym == keysym)
			return (struct keymap_key){ keys[i].code, KEYMAP_EITHER };
	if (keysym <= ' ' || keysym > '~')
		return (struct keymap_key){ 0, KEYMAP_EITHER };
	at = strchr(without_shift, (int)keysym);
	if (at)
		return (struct keymap_key){ (uint16_t)(FIRST + (at - without_shift)), KEYMAP_WITHOUT };
	at = strchr(with_shift, (int)keysym);
	return (struct keymap_key){ at ? (uint16_t)(FIRST + (at - with_shift)) : 0, KEYMAP_WITH };
}
