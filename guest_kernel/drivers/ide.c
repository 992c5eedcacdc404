/* IDE disks behind a PIIX3 (ATA/ATAPI-5; Intel 82371SB; "Programming Interface for Bus Master IDE Controller").
   A command is written register by register, then the controller moves the data by itself (bus master DMA) or the CPU
   does (PIO); an interrupt reports the end, or with PIO each sector. There is no queue: one command at a time.
   Simplified: one drive a channel, no READ and WRITE MULTIPLE, DMA below 4 GiB, and nothing is tried twice. */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "pci.h"

#define VENDOR_INTEL 0x8086
#define DEVICE_PIIX3_IDE 0x7010
#define BUS_MASTER_BAR 4

/* The command block. */
#define DATA 0
#define FEATURE 1                   /* read: the error */
#define COUNT 2
#define LBA_LOW 3
#define LBA_MID 4
#define LBA_HIGH 5
#define DEVICE 6
#define DEVICE_LBA 0xE0             /* LBA addresses, drive 0 */
#define STATUS 7                    /* reading it ends the interrupt; write: the command */
#define STATUS_BUSY 0x80
#define STATUS_FAULT 0x20
#define STATUS_DATA 0x08            /* wants to be given or relieved of data */
#define STATUS_ERROR 0x01
#define FLOATING 0x7F               /* no drive at all */
/* The control block's one register; reading gives the status, and leaves the interrupt alone. */
#define CONTROL_NO_INTERRUPT 0x02
#define CONTROL_RESET 0x04

/* Bus master registers of a channel. */
#define MASTER_COMMAND 0
#define MASTER_START 0x01
#define MASTER_TO_MEMORY 0x08
#define MASTER_STATUS 2             /* errors and interrupts are cleared by writing ones */
#define MASTER_ERROR 0x02
#define MASTER_INTERRUPT 0x04
#define MASTER_TABLE 4              /* physical address of the table */

enum command {
    READ_SECTORS = 0x20,
    READ_SECTORS_EXT = 0x24,
    READ_DMA_EXT = 0x25,
    WRITE_SECTORS = 0x30,
    WRITE_SECTORS_EXT = 0x34,
    WRITE_DMA_EXT = 0x35,
    READ_DMA = 0xC8,
    WRITE_DMA = 0xCA,
    FLUSH_CACHE = 0xE7,
    IDENTIFY = 0xEC,
    SET_FEATURES = 0xEF,
};
#define FEATURE_TRANSFER_MODE 0x03
#define MULTIWORD_DMA_2 0x22
#define LBA28_END (1ul << 28)

/* A region of memory for the bus master. */
struct region {
    u32 address;
    u16 bytes;
    u16 flags;
};
#define REGION_LAST 0x8000

struct ide {
    struct disk disk; /* first: a struct disk of ours is a struct ide */
    u16 command, control, master;
    bool pio;
    struct region *table; /* NULL: no bus master */
    u64 table_address;
    struct disk_request *request;
    bool by_dma;          /* the request moves its data so */
    u32 moved;            /* sectors, if not */
    volatile bool interrupted;
    u8 status, master_status; /* as the interrupt handler found them */
    char model[41];
};

static struct ide channels[DISK_PLACES];

static u8 get(const struct ide *ide, u32 offset) { return arch_io_read(ide->command + offset); }
static void set(const struct ide *ide, u32 offset, u32 value) { arch_io_write(ide->command + offset, (u8)value); }

/* The alternate status, when the drive is not busy any more; busy, if it never is. */
static u8 wait_not_busy(const struct ide *ide)
{
    for (u32 looks = 0; looks < 1000000; looks++) {
        u8 status = arch_io_read(ide->control);
        if (!(status & STATUS_BUSY))
            return status;
    }
    return STATUS_BUSY;
}

/* Address registers, then the command. The 48-bit form has each register twice, high part first. */
static void give_command(const struct ide *ide, u64 sector, u32 sectors, enum command code, bool extended)
{
    if (extended) {
        set(ide, COUNT, sectors >> 8);
        set(ide, LBA_LOW, (u32)(sector >> 24));
        set(ide, LBA_MID, (u32)(sector >> 32));
        set(ide, LBA_HIGH, (u32)(sector >> 40));
    }
    set(ide, COUNT, sectors);
    set(ide, LBA_LOW, (u32)sector);
    set(ide, LBA_MID, (u32)(sector >> 8));
    set(ide, LBA_HIGH, (u32)(sector >> 16));
    set(ide, DEVICE, DEVICE_LBA | (extended ? 0 : sector >> 24 & 0xF));
    set(ide, STATUS, code);
}

/* Moves the sector that the drive has or wants. */
static void move_sector(struct ide *ide, const struct disk_request *request)
{
    void *memory = phys_to_virt(request->memory + ide->moved * SECTOR);
    if (request->operation == DISK_READ)
        arch_io_read_block(ide->command + DATA, memory, SECTOR / 2);
    else
        arch_io_write_block(ide->command + DATA, memory, SECTOR / 2);
    ide->moved++;
}

static void start_dma(struct ide *ide, const struct disk_request *request)
{
    static const enum command commands[2][2] = {{READ_DMA, READ_DMA_EXT}, {WRITE_DMA, WRITE_DMA_EXT}};
    bool write = request->operation == DISK_WRITE, extended = request->sector + request->sectors > LBA28_END;
    u8 direction = write ? 0 : MASTER_TO_MEMORY;
    *ide->table = (struct region){(u32)request->memory, (u16)(request->sectors * SECTOR), REGION_LAST};
    arch_io_write32(ide->master + MASTER_TABLE, (u32)ide->table_address);
    arch_io_write(ide->master + MASTER_STATUS, MASTER_ERROR | MASTER_INTERRUPT);
    give_command(ide, request->sector, request->sectors, commands[write][extended], extended);
    arch_io_write(ide->master + MASTER_COMMAND, direction | MASTER_START);
}

static void start_pio(struct ide *ide, const struct disk_request *request)
{
    static const enum command commands[2][2] = {{READ_SECTORS, READ_SECTORS_EXT}, {WRITE_SECTORS, WRITE_SECTORS_EXT}};
    bool write = request->operation == DISK_WRITE, extended = request->sector + request->sectors > LBA28_END;
    give_command(ide, request->sector, request->sectors, commands[write][extended], extended);
    if (write && wait_not_busy(ide) & STATUS_DATA) /* a refused command interrupts instead */
        move_sector(ide, request);
}

static void ide_start(struct disk *disk, struct disk_request *request)
{
    struct ide *ide = (struct ide *)disk;
    ide->request = request;
    ide->by_dma = false;
    ide->moved = 0;
    if (request->operation == DISK_FLUSH) {
        set(ide, DEVICE, DEVICE_LBA);
        set(ide, STATUS, FLUSH_CACHE);
    } else if (ide->table && !ide->pio && request->memory + request->sectors * SECTOR <= 1ul << 32) {
        ide->by_dma = true;
        start_dma(ide, request);
    } else {
        start_pio(ide, request);
    }
}

/* Quiets drive and controller. What it means for the request is ide_poll()'s to say. */
static void interrupt(struct ide *ide)
{
    if (ide->by_dma) {
        ide->master_status = arch_io_read(ide->master + MASTER_STATUS);
        arch_io_write(ide->master + MASTER_COMMAND, 0);
        arch_io_write(ide->master + MASTER_STATUS, MASTER_ERROR | MASTER_INTERRUPT);
    }
    ide->status = get(ide, STATUS);
    ide->interrupted = true;
}

static void interrupt_local(void) { interrupt(&channels[DISK_LOCAL]); }
static void interrupt_remote(void) { interrupt(&channels[DISK_REMOTE]); }

static void finish(struct ide *ide, i64 result)
{
    struct disk_request *request = ide->request;
    ide->request = NULL;
    disk_done(&ide->disk, request, result);
}

static void ide_poll(struct disk *disk)
{
    struct ide *ide = (struct ide *)disk;
    if (!ide->interrupted)
        return;
    ide->interrupted = false;
    if (!ide->request)
        return; /* an interrupt that nobody waits for */
    if (ide->status & (STATUS_ERROR | STATUS_FAULT) || (ide->by_dma && ide->master_status & MASTER_ERROR)) {
        finish(ide, -EIO);
    } else if (ide->status & STATUS_DATA) {
        move_sector(ide, ide->request);
        if (ide->request->operation == DISK_READ && ide->moved == ide->request->sectors)
            finish(ide, 0); /* after the last sector comes no interrupt */
    } else {
        finish(ide, 0);
    }
}

static bool reset(struct ide *ide)
{
    if (ide->table)
        arch_io_write(ide->master + MASTER_COMMAND, 0);
    arch_io_write(ide->control, CONTROL_NO_INTERRUPT | CONTROL_RESET);
    arch_io_write(ide->control, CONTROL_NO_INTERRUPT);
    return !(wait_not_busy(ide) & STATUS_BUSY);
}

/* A command without data and interrupt. */
static bool command(const struct ide *ide, u32 feature, u32 count, enum command code)
{
    set(ide, FEATURE, feature);
    set(ide, COUNT, count);
    set(ide, DEVICE, DEVICE_LBA);
    set(ide, STATUS, code);
    u8 status = wait_not_busy(ide);
    get(ide, STATUS);
    return !(status & (STATUS_BUSY | STATUS_ERROR));
}

/* After a reset: the fastest DMA that the controller has, and interrupts. */
static bool set_up(const struct ide *ide)
{
    bool good = command(ide, FEATURE_TRANSFER_MODE, MULTIWORD_DMA_2, SET_FEATURES);
    arch_io_write(ide->control, 0);
    return good;
}

static void ide_reset(struct disk *disk)
{
    struct ide *ide = (struct ide *)disk;
    reset(ide);
    set_up(ide);
    ide->interrupted = false;
    if (ide->request)
        finish(ide, -EIO);
}

static void ide_use_pio(struct disk *disk, bool on) { ((struct ide *)disk)->pio = on; }

/* Words 27 to 46 of what the drive says of itself, two characters each, the first one high; spaces at the end. */
static void read_model(struct ide *ide, const u16 *words)
{
    u32 length = 0;
    for (u32 i = 0; i < 40; i++) {
        ide->model[i] = (char)(words[27 + i / 2] >> (i % 2 ? 0 : 8));
        if (ide->model[i] != ' ')
            length = i + 1;
    }
    ide->model[length] = 0;
}

static bool identify(struct ide *ide)
{
    static u16 words[256];
    if (!command(ide, 0, 0, IDENTIFY) || !(arch_io_read(ide->control) & STATUS_DATA))
        return false;
    arch_io_read_block(ide->command + DATA, words, 256);
    read_model(ide, words);
    ide->disk.sectors = words[60] | (u64)words[61] << 16;
    if (words[83] & 1 << 10) /* it has 48-bit addresses, and says how many */
        ide->disk.sectors = words[100] | (u64)words[101] << 16 | (u64)words[102] << 32 | (u64)words[103] << 48;
    return true;
}

/* A table of one region, in a page of its own. */
static void find_bus_master(struct ide *ide, const struct pci_function *controller, u32 channel)
{
    u64 page = frame_alloc(), masters = pci_bar(controller, BUS_MASTER_BAR);
    if (!masters || !page || page >> 32)
        return;
    ide->master = (u16)(masters + 8 * channel);
    ide->table_address = page;
    ide->table = phys_to_virt(page);
}

struct disk *ide_find(enum disk_place place)
{
    static const struct {
        u16 command, control;
        u32 line;
        void (*interrupt)(void);
    } legacy[DISK_PLACES] = {{0x1F0, 0x3F6, 14, interrupt_local}, {0x170, 0x376, 15, interrupt_remote}};

    const struct pci_function *controller = pci_find(VENDOR_INTEL, DEVICE_PIIX3_IDE);
    if (!controller)
        return NULL;
    pci_enable(controller);
    struct ide *ide = &channels[place];
    ide->command = legacy[place].command;
    ide->control = legacy[place].control;
    set(ide, DEVICE, DEVICE_LBA);
    u8 status = get(ide, STATUS);
    if (status == 0xFF || status == FLOATING)
        return NULL;
    find_bus_master(ide, controller, place);
    if (!reset(ide) || !identify(ide) || !set_up(ide))
        return NULL;
    arch_irq_connect(legacy[place].line, false, legacy[place].interrupt);
    ide->disk.model = ide->model;
    ide->disk.depth = 1;
    ide->disk.start = ide_start;
    ide->disk.poll = ide_poll;
    ide->disk.reset = ide_reset;
    ide->disk.use_pio = ide_use_pio;
    return &ide->disk;
}
