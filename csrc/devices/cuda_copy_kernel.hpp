#pragma once

// Made of cuda_copy_kernel.cu by `make ptx`.
// SHA-256 of that: aa781e32317dbd33183f261f47355bbbb47c9317ba5eeb131db48f1a465ba13f
namespace yr_fastload::cuda {

inline constexpr const char* kCopyKernelName = "yrfl_copy_runs";

// clang-format off
inline constexpr const char* kCopyKernel = R"ptx(.version 7.8
.target sm_70
.address_size 64
	// .globl	yrfl_copy_runs
.visible .entry yrfl_copy_runs(
	.param .u64 yrfl_copy_runs_param_0,
	.param .u32 yrfl_copy_runs_param_1
)
{
	.reg .pred 	%p<11>;
	.reg .b16 	%rs<2>;
	.reg .b32 	%r<41>;
	.reg .b64 	%rd<39>;
	ld.param.u64 	%rd25, [yrfl_copy_runs_param_0];
	ld.param.u32 	%r5, [yrfl_copy_runs_param_1];
	mov.u32 	%r40, %ctaid.x;
	setp.ge.u32 	%p1, %r40, %r5;
	@%p1 bra 	$L__BB0_14;
	mov.u32 	%r6, %tid.x;
	cvt.u64.u32 	%rd1, %r6;
	mov.u32 	%r7, %ntid.x;
	cvt.u64.u32 	%rd2, %r7;
	mov.u32 	%r2, %nctaid.x;
	mul.wide.u32 	%rd3, %r7, 16;
	cvta.to.global.u64 	%rd4, %rd25;
$L__BB0_2:
	mul.wide.u32 	%rd27, %r40, 24;
	add.s64 	%rd28, %rd4, %rd27;
	ld.global.u64 	%rd5, [%rd28+16];
	mov.u64 	%rd37, 0;
	ld.global.u64 	%rd6, [%rd28];
	ld.global.u64 	%rd7, [%rd28+8];
	or.b64  	%rd29, %rd7, %rd6;
	and.b64  	%rd30, %rd29, 15;
	setp.ne.s64 	%p2, %rd30, 0;
	@%p2 bra 	$L__BB0_10;
	shr.u64 	%rd8, %rd5, 4;
	setp.le.u64 	%p3, %rd8, %rd1;
	@%p3 bra 	$L__BB0_9;
	mov.u64 	%rd36, %rd1;
$L__BB0_5:
	.pragma "nounroll";
	shl.b64 	%rd31, %rd36, 4;
	add.s64 	%rd11, %rd6, %rd31;
	add.s64 	%rd10, %rd7, %rd31;
	ld.v4.u32 	{%r8, %r9, %r10, %r11}, [%rd10];
	st.v4.u32 	[%rd11], {%r8, %r9, %r10, %r11};
	add.s64 	%rd12, %rd36, %rd2;
	setp.ge.u64 	%p4, %rd12, %rd8;
	@%p4 bra 	$L__BB0_9;
	add.s64 	%rd13, %rd10, %rd3;
	ld.v4.u32 	{%r16, %r17, %r18, %r19}, [%rd13];
	add.s64 	%rd14, %rd11, %rd3;
	st.v4.u32 	[%rd14], {%r16, %r17, %r18, %r19};
	add.s64 	%rd15, %rd12, %rd2;
	setp.ge.u64 	%p5, %rd15, %rd8;
	@%p5 bra 	$L__BB0_9;
	add.s64 	%rd16, %rd13, %rd3;
	ld.v4.u32 	{%r24, %r25, %r26, %r27}, [%rd16];
	add.s64 	%rd17, %rd14, %rd3;
	st.v4.u32 	[%rd17], {%r24, %r25, %r26, %r27};
	add.s64 	%rd18, %rd15, %rd2;
	setp.ge.u64 	%p6, %rd18, %rd8;
	@%p6 bra 	$L__BB0_9;
	add.s64 	%rd32, %rd16, %rd3;
	ld.v4.u32 	{%r32, %r33, %r34, %r35}, [%rd32];
	add.s64 	%rd33, %rd17, %rd3;
	st.v4.u32 	[%rd33], {%r32, %r33, %r34, %r35};
	add.s64 	%rd36, %rd18, %rd2;
	setp.lt.u64 	%p7, %rd36, %rd8;
	@%p7 bra 	$L__BB0_5;
$L__BB0_9:
	and.b64  	%rd37, %rd5, -16;
$L__BB0_10:
	add.s64 	%rd38, %rd37, %rd1;
	setp.ge.u64 	%p8, %rd38, %rd5;
	@%p8 bra 	$L__BB0_13;
$L__BB0_12:
	add.s64 	%rd34, %rd7, %rd38;
	ld.u8 	%rs1, [%rd34];
	add.s64 	%rd35, %rd6, %rd38;
	st.u8 	[%rd35], %rs1;
	add.s64 	%rd38, %rd38, %rd2;
	setp.lt.u64 	%p9, %rd38, %rd5;
	@%p9 bra 	$L__BB0_12;
$L__BB0_13:
	add.s32 	%r40, %r40, %r2;
	setp.lt.u32 	%p10, %r40, %r5;
	@%p10 bra 	$L__BB0_2;
$L__BB0_14:
	ret;
}
)ptx";
// clang-format on

}  // namespace yr_fastload::cuda
