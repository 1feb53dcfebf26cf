"""The numbers of classic BPF, by the kernel's names.

linux/bpf_common.h: an opcode is a class with a size and a mode, or with an
operation and a source: `BPF_LD | BPF_H | BPF_ABS`, `BPF_JMP | BPF_JEQ`.
"""

# Instruction classes.
BPF_CLASS = 0x07
BPF_LD, BPF_LDX, BPF_ST, BPF_STX, BPF_ALU, BPF_JMP, BPF_RET, BPF_MISC = range(
    8
)
# Loads: size and mode.
BPF_SIZE = 0x18
BPF_W, BPF_H, BPF_B = 0x00, 0x08, 0x10
BPF_MODE = 0xE0
BPF_IMM, BPF_ABS, BPF_IND, BPF_MEM, BPF_LEN, BPF_MSH = range(0x00, 0xC0, 0x20)
# Arithmetic and jumps: operation and source.
BPF_OP = 0xF0
BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND = range(0x00, 0x60, 0x10)
BPF_LSH, BPF_RSH, BPF_NEG, BPF_MOD, BPF_XOR = range(0x60, 0xB0, 0x10)
BPF_JA, BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET = range(0x00, 0x50, 0x10)
BPF_K, BPF_X, BPF_A = 0x00, 0x08, 0x10
BPF_TAX, BPF_TXA = 0x00, 0x80

BPF_MAXINSNS = 4096
BPF_MEMWORDS = 16

# linux/filter.h: what absolute offsets from here on mean, as unsigned.
SKF_LL_OFF = 0xFFE00000
SKF_NET_OFF = 0xFFF00000
SKF_AD_OFF = 0xFFFFF000
SKF_AD_PROTOCOL = 0
SKF_AD_PKTTYPE = 4
SKF_AD_IFINDEX = 8
SKF_AD_HATYPE = 28
SKF_AD_ALU_XOR_X = 40
SKF_AD_VLAN_TAG = 44
SKF_AD_VLAN_TAG_PRESENT = 48
SKF_AD_RANDOM = 56
SKF_AD_VLAN_TPID = 60
