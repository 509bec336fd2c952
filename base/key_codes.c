#include "base/key_codes.h"
#include "base/display.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <linux/input-event-codes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- scan codes of set 1 ---- */

/* Codes of the keys from KEY_ESC to KEY_F12 equal Linux's codes. These are the others. */
static const struct {
	uint16_t code, set_1;
} others[] = {
	{ KEY_RO, 0x73 }, { KEY_HENKAN, 0x79 }, { KEY_KATAKANAHIRAGANA, 0x70 }, { KEY_MUHENKAN, 0x7b }, { KEY_YEN, 0x7d },
	{ KEY_KPEQUAL, 0x59 }, { KEY_KPCOMMA, 0x7e }, { KEY_KPENTER, 0xe01c }, { KEY_RIGHTCTRL, 0xe01d }, { KEY_KPSLASH, 0xe035 },
	{ KEY_SYSRQ, 0xe037 }, { KEY_RIGHTALT, 0xe038 }, { KEY_HOME, 0xe047 }, { KEY_UP, 0xe048 }, { KEY_PAGEUP, 0xe049 },
	{ KEY_LEFT, 0xe04b }, { KEY_RIGHT, 0xe04d }, { KEY_END, 0xe04f }, { KEY_DOWN, 0xe050 }, { KEY_PAGEDOWN, 0xe051 },
	{ KEY_INSERT, 0xe052 }, { KEY_DELETE, 0xe053 }, { KEY_MUTE, 0xe020 }, { KEY_VOLUMEDOWN, 0xe02e }, { KEY_VOLUMEUP, 0xe030 },
	{ KEY_POWER, 0xe05e }, { KEY_SLEEP, 0xe05f }, { KEY_WAKEUP, 0xe063 }, { KEY_LEFTMETA, 0xe05b }, { KEY_RIGHTMETA, 0xe05c },
	{ KEY_COMPOSE, 0xe05d }, { KEY_NEXTSONG, 0xe019 }, { KEY_PLAYPAUSE, 0xe022 }, { KEY_PREVIOUSSONG, 0xe010 },
	{ KEY_STOPCD, 0xe024 }, { KEY_CALC, 0xe021 }, { KEY_MAIL, 0xe06c }, { KEY_HOMEPAGE, 0xe032 }, { KEY_BACK, 0xe06a },
	{ KEY_FORWARD, 0xe069 }, { KEY_SEARCH, 0xe065 }, { KEY_F13, 0x64 }, { KEY_F14, 0x65 }, { KEY_F15, 0x66 }, { KEY_F16, 0x67 },
	{ KEY_F17, 0x68 }, { KEY_F18, 0x69 }, { KEY_F19, 0x6a }, { KEY_F20, 0x6b }, { KEY_F21, 0x6c }, { KEY_F22, 0x6d },
	{ KEY_F23, 0x6e }, { KEY_F24, 0x76 },
};

unsigned key_set_1(uint16_t code)
{
	if (code >= KEY_ESC && code <= KEY_F12 && code != 84 && code != KEY_ZENKAKUHANKAKU)
		return code;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (others[i].code == code)
			return others[i].set_1;
	return 0;
}

static uint16_t code_of_set_1(unsigned set_1)
{
	for (uint16_t code = 1; code <= INPUT_KEY_MAX && set_1; code++)
		if (key_set_1(code) == set_1)
			return code;
	return 0;
}

/* ---- names ---- */

#define K(name) { #name, KEY_##name }
static const struct {
	char name[18]; /* no pointer, whose relocation would give each process an own copy of the table */
	uint16_t code;
} names[] = {
	K(ESC), K(1), K(2), K(3), K(4), K(5), K(6), K(7), K(8), K(9), K(0), K(MINUS), K(EQUAL), K(BACKSPACE), K(TAB), K(Q),
	K(W), K(E), K(R), K(T), K(Y), K(U), K(I), K(O), K(P), K(LEFTBRACE), K(RIGHTBRACE), K(ENTER), K(LEFTCTRL), K(A),
	K(S), K(D), K(F), K(G), K(H), K(J), K(K), K(L), K(SEMICOLON), K(APOSTROPHE), K(GRAVE), K(LEFTSHIFT), K(BACKSLASH),
	K(Z), K(X), K(C), K(V), K(B), K(N), K(M), K(COMMA), K(DOT), K(SLASH), K(RIGHTSHIFT), K(KPASTERISK), K(LEFTALT),
	K(SPACE), K(CAPSLOCK), K(F1), K(F2), K(F3), K(F4), K(F5), K(F6), K(F7), K(F8), K(F9), K(F10), K(NUMLOCK),
	K(SCROLLLOCK), K(KP7), K(KP8), K(KP9), K(KPMINUS), K(KP4), K(KP5), K(KP6), K(KPPLUS), K(KP1), K(KP2), K(KP3),
	K(KP0), K(KPDOT), K(ZENKAKUHANKAKU), K(102ND), K(F11), K(F12), K(RO), K(KATAKANA), K(HIRAGANA), K(HENKAN),
	K(KATAKANAHIRAGANA), K(MUHENKAN), K(KPJPCOMMA), K(KPENTER), K(RIGHTCTRL), K(KPSLASH), K(SYSRQ), K(RIGHTALT),
	K(LINEFEED), K(HOME), K(UP), K(PAGEUP), K(LEFT), K(RIGHT), K(END), K(DOWN), K(PAGEDOWN), K(INSERT), K(DELETE),
	K(MACRO), K(MUTE), K(VOLUMEDOWN), K(VOLUMEUP), K(POWER), K(KPEQUAL), K(KPPLUSMINUS), K(PAUSE), K(SCALE), K(KPCOMMA),
	K(HANGEUL), K(HANJA), K(YEN), K(LEFTMETA), K(RIGHTMETA), K(COMPOSE), K(STOP), K(AGAIN), K(PROPS), K(UNDO), K(FRONT),
	K(COPY), K(OPEN), K(PASTE), K(FIND), K(CUT), K(HELP), K(MENU), K(CALC), K(SETUP), K(SLEEP), K(WAKEUP), K(FILE),
	K(SENDFILE), K(DELETEFILE), K(XFER), K(PROG1), K(PROG2), K(WWW), K(MSDOS), K(COFFEE), K(ROTATE_DISPLAY),
	K(CYCLEWINDOWS), K(MAIL), K(BOOKMARKS), K(COMPUTER), K(BACK), K(FORWARD), K(CLOSECD), K(EJECTCD), K(EJECTCLOSECD),
	K(NEXTSONG), K(PLAYPAUSE), K(PREVIOUSSONG), K(STOPCD), K(RECORD), K(REWIND), K(PHONE), K(ISO), K(CONFIG),
	K(HOMEPAGE), K(REFRESH), K(EXIT), K(MOVE), K(EDIT), K(SCROLLUP), K(SCROLLDOWN), K(KPLEFTPAREN), K(KPRIGHTPAREN),
	K(NEW), K(REDO), K(F13), K(F14), K(F15), K(F16), K(F17), K(F18), K(F19), K(F20), K(F21), K(F22), K(F23), K(F24),
	K(PLAYCD), K(PAUSECD), K(PROG3), K(PROG4), K(ALL_APPLICATIONS), K(SUSPEND), K(CLOSE), K(PLAY), K(FASTFORWARD),
	K(BASSBOOST), K(PRINT), K(HP), K(CAMERA), K(SOUND), K(QUESTION), K(EMAIL), K(CHAT), K(SEARCH), K(CONNECT),
	K(FINANCE), K(SPORT), K(SHOP), K(ALTERASE), K(CANCEL), K(BRIGHTNESSDOWN), K(BRIGHTNESSUP), K(MEDIA),
	K(SWITCHVIDEOMODE), K(KBDILLUMTOGGLE), K(KBDILLUMDOWN), K(KBDILLUMUP), K(SEND), K(REPLY), K(FORWARDMAIL), K(SAVE),
	K(DOCUMENTS), K(BATTERY), K(BLUETOOTH), K(WLAN), K(UWB), K(UNKNOWN), K(VIDEO_NEXT), K(VIDEO_PREV),
	K(BRIGHTNESS_CYCLE), K(BRIGHTNESS_AUTO), K(DISPLAY_OFF), K(WWAN), K(RFKILL), K(MICMUTE),
	K(HANGUEL), K(SCREENLOCK), K(DIRECTION), K(DASHBOARD), K(BRIGHTNESS_ZERO), K(WIMAX), K(MIN_INTERESTING),
};
#undef K

static uint16_t code_of_name(const char *name)
{
	if (strncmp(name, "KEY_", 4) != 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i].name, name + 4))
			return names[i].code;
	return 0;
}

uint16_t key_code_of_rfb(unsigned long number)
{
	return number > 0xff ? 0 : code_of_set_1(number & 0x80 ? 0xe000 | (unsigned)(number & 0x7f) : (unsigned)number);
}

static uint16_t code_of_number(const char *codeset, unsigned long v)
{
	if (!strcmp(codeset, "linux"))
		return v <= INPUT_KEY_MAX ? (uint16_t)v : 0;
	if (!strcmp(codeset, "qnum") || !strcmp(codeset, "rfb"))
		return key_code_of_rfb(v);
	return v > 0xffff ? 0 : code_of_set_1((unsigned)v);
}

int key_codeset_check(const char *codeset, struct err *e)
{
	static const char *const sets[] = { "linux", "xt", "atset1", "qnum", "rfb" };

	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		if (!strcmp(codeset, sets[i]))
			return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "codeset: \"%.20s\" is not supported; use linux, xt, atset1, qnum or rfb", codeset);
}

int key_code(const char *codeset, const char *word, uint16_t *ret, struct err *e)
{
	bool number = isdigit((unsigned char)word[0]);
	char *end;
	unsigned long v = strtoul(word, &end, 0);

	*ret = !number ? code_of_name(word) : *end ? 0 : code_of_number(codeset, v);
	if (!number && strcmp(codeset, "linux") != 0)
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.40s\": only codeset linux has names; give a number", word);
	return *ret ? 0 : err_set(e, -EINVAL, ERR_INVALID, "\"%.40s\" is no key of codeset %s; names are those of linux/input-event-codes.h, "
		"such as KEY_ENTER, and numbers are at most %d", word, codeset, INPUT_KEY_MAX);
}

/* ---- QEMU's names ---- */

/* QEMU's names that differ from the kernel's in small letters. */
static const struct {
	char name[14];
	uint16_t code;
} qemu_names[] = {
	{ "ret", KEY_ENTER }, { "spc", KEY_SPACE }, { "shift", KEY_LEFTSHIFT }, { "shift_r", KEY_RIGHTSHIFT }, { "alt", KEY_LEFTALT },
	{ "alt_r", KEY_RIGHTALT }, { "ctrl", KEY_LEFTCTRL }, { "ctrl_r", KEY_RIGHTCTRL }, { "meta_l", KEY_LEFTMETA },
	{ "meta_r", KEY_RIGHTMETA }, { "bracket_left", KEY_LEFTBRACE }, { "bracket_right", KEY_RIGHTBRACE }, { "less", KEY_102ND },
	{ "grave_accent", KEY_GRAVE }, { "caps_lock", KEY_CAPSLOCK }, { "num_lock", KEY_NUMLOCK }, { "scroll_lock", KEY_SCROLLLOCK },
	{ "asterisk", KEY_KPASTERISK }, { "kp_multiply", KEY_KPASTERISK }, { "kp_divide", KEY_KPSLASH }, { "kp_add", KEY_KPPLUS },
	{ "kp_subtract", KEY_KPMINUS }, { "kp_enter", KEY_KPENTER }, { "kp_decimal", KEY_KPDOT }, { "kp_equals", KEY_KPEQUAL },
	{ "kp_comma", KEY_KPCOMMA }, { "kp_0", KEY_KP0 }, { "kp_1", KEY_KP1 }, { "kp_2", KEY_KP2 }, { "kp_3", KEY_KP3 },
	{ "kp_4", KEY_KP4 }, { "kp_5", KEY_KP5 }, { "kp_6", KEY_KP6 }, { "kp_7", KEY_KP7 }, { "kp_8", KEY_KP8 }, { "kp_9", KEY_KP9 },
	{ "pgup", KEY_PAGEUP }, { "pgdn", KEY_PAGEDOWN }, { "print", KEY_SYSRQ }, { "lf", KEY_LINEFEED }, { "wake", KEY_WAKEUP },
	{ "audionext", KEY_NEXTSONG }, { "audioprev", KEY_PREVIOUSSONG }, { "audiostop", KEY_STOPCD }, { "audioplay", KEY_PLAYPAUSE },
	{ "audiomute", KEY_MUTE }, { "calculator", KEY_CALC }, { "mediaselect", KEY_MEDIA }, { "ac_home", KEY_HOMEPAGE },
	{ "ac_back", KEY_BACK }, { "ac_forward", KEY_FORWARD }, { "ac_refresh", KEY_REFRESH }, { "ac_bookmarks", KEY_BOOKMARKS },
	{ "lang1", KEY_HANGEUL }, { "lang2", KEY_HANJA },
};

static uint16_t code_of_small_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t n = 0;

		while (name[n] && tolower((unsigned char)names[i].name[n]) == name[n])
			n++;
		if (!name[n] && !names[i].name[n])
			return names[i].code;
	}
	return 0;
}

int key_code_of_qemu(const char *name, uint16_t *ret, struct err *e)
{
	*ret = code_of_small_name(name);
	for (size_t i = 0; i < ARRAY_SIZE(qemu_names); i++)
		if (!strcmp(qemu_names[i].name, name))
			*ret = qemu_names[i].code;
	return *ret ? 0 : err_set(e, -EINVAL, ERR_INVALID, "\"%.40s\" is no key that QEMU names, such as ret, spc, ctrl or f1", name);
}
