/* The keyboard and the mouse of a machine with a screen (devices/legacy/i8042.h). */
DefinitionBlock ("ssdt.aml", "SSDT", 2, "CAIRN ", "CAIRNKBD", 1)
{
    Scope (\_SB)
    {
        Device (KBD)
        {
            Name (_HID, EisaId ("PNP0303"))
            Name (_STA, 0x0F)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0060, 0x0060, 1, 1)
                IO (Decode16, 0x0064, 0x0064, 1, 1)
                IRQNoFlags () { 1 }
            })
        }

        Device (MOU)
        {
            Name (_HID, EisaId ("PNP0F13"))
            Name (_STA, 0x0F)
            Name (_CRS, ResourceTemplate ()
            {
                IRQNoFlags () { 12 }
            })
        }
    }
}
