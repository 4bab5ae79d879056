#pragma once

// Made of cuda_digest_kernel.cu by `make ptx`.
// SHA-256 of that: a88dfd9916e09fe9304d3d9a7093aae2ec0d4116ee6d53f25558883bc88c17a0
namespace yr_fastload::cuda {

inline constexpr const char* kDigestKernelName = "yrfl_digest_pieces";

// clang-format off
inline constexpr const char* kDigestKernel = R"ptx(.version 7.8
.target sm_70
.address_size 64
	// .globl	yrfl_digest_pieces
.global .align 8 .u64 kBlockKey = -7046029254386353131;
.global .align 4 .u32 kBlockBytes = 8192;
.global .align 4 .u32 kColumns = 1024;
.global .align 4 .u32 kLanes = 32;
.global .align 4 .u32 kWarps = 8;
.global .align 4 .u32 kAhead = 4;
.visible .entry yrfl_digest_pieces(
	.param .u64 yrfl_digest_pieces_param_0,
	.param .u64 yrfl_digest_pieces_param_1
)
.maxntid 256, 1, 1
{
	.reg .pred 	%p<47>;
	.reg .b16 	%rs<2>;
	.reg .b32 	%r<80>;
	.reg .b64 	%rd<490>;
	// demoted variable
	.shared .align 16 .b8 _ZZ18yrfl_digest_piecesE4keys[8192];
	// demoted variable
	.shared .align 8 .b8 _ZZ18yrfl_digest_piecesE6sum_of[64];
	ld.param.u64 	%rd100, [yrfl_digest_pieces_param_0];
	mov.u32 	%r1, %tid.x;
	setp.gt.u32 	%p1, %r1, 1023;
	@%p1 bra 	$L__BB0_3;
	mov.u64 	%rd113, _ZZ18yrfl_digest_piecesE4keys;
	mov.u32 	%r74, %r1;
$L__BB0_2:
	add.s32 	%r23, %r74, 1;
	cvt.u64.u32 	%rd102, %r23;
	mul.lo.s64 	%rd103, %rd102, -7046029254386353131;
	shr.u64 	%rd104, %rd103, 30;
	xor.b64  	%rd105, %rd104, %rd103;
	mul.lo.s64 	%rd106, %rd105, -4658895280553007687;
	shr.u64 	%rd107, %rd106, 27;
	xor.b64  	%rd108, %rd107, %rd106;
	mul.lo.s64 	%rd109, %rd108, -7723592293110705685;
	shr.u64 	%rd110, %rd109, 31;
	xor.b64  	%rd111, %rd110, %rd109;
	mul.wide.u32 	%rd112, %r74, 8;
	add.s64 	%rd114, %rd113, %rd112;
	st.shared.u64 	[%rd114], %rd111;
	add.s32 	%r74, %r74, 256;
	setp.lt.u32 	%p2, %r74, 1024;
	@%p2 bra 	$L__BB0_2;
$L__BB0_3:
	bar.sync 	0;
	mov.u32 	%r24, %ctaid.x;
	cvta.to.global.u64 	%rd116, %rd100;
	mul.wide.u32 	%rd117, %r24, 32;
	add.s64 	%rd1, %rd116, %rd117;
	and.b32  	%r4, %r1, 31;
	ld.global.u64 	%rd2, [%rd1+8];
	mov.u64 	%rd489, 0;
	ld.global.u64 	%rd3, [%rd1];
	shr.u32 	%r25, %r1, 5;
	cvt.u64.u32 	%rd470, %r25;
	mul.wide.u32 	%rd469, %r25, 8192;
	ld.global.u64 	%rd6, [%rd1+16];
	setp.le.u64 	%p3, %rd6, %rd469;
	@%p3 bra 	$L__BB0_48;
	ld.global.u64 	%rd7, [%rd1+24];
	or.b32  	%r5, %r4, 96;
	mul.wide.u32 	%rd119, %r4, 16;
	or.b64  	%rd8, %rd119, 1024;
	mul.wide.u32 	%rd120, %r4, 2;
	shl.b64 	%rd121, %rd120, 3;
	mov.u64 	%rd122, _ZZ18yrfl_digest_piecesE4keys;
	add.s64 	%rd123, %rd122, %rd121;
	add.s64 	%rd9, %rd123, 1024;
	add.s64 	%rd10, %rd2, %rd8;
	or.b64  	%rd124, %rd2, %rd3;
	and.b64  	%rd11, %rd124, 15;
$L__BB0_5:
	sub.s64 	%rd126, %rd6, %rd469;
	min.u64 	%rd15, %rd126, 8192;
	cvt.u32.u64 	%r6, %rd15;
	add.s64 	%rd127, %rd3, %rd469;
	setp.eq.s64 	%p4, %rd3, 0;
	mov.u64 	%rd482, 0;
	selp.b64 	%rd16, 0, %rd127, %p4;
	shr.u32 	%r27, %r6, 4;
	setp.eq.s64 	%p5, %rd11, 0;
	selp.b32 	%r7, %r27, 0, %p5;
	setp.ge.u32 	%p6, %r5, %r7;
	mov.u32 	%r76, %r4;
	@%p6 bra 	$L__BB0_17;
	add.s64 	%rd474, %rd16, %rd8;
	add.s64 	%rd472, %rd10, %rd469;
	mov.u64 	%rd473, %rd9;
	mov.u32 	%r75, %r5;
$L__BB0_7:
	ld.v2.u64 	{%rd129, %rd130}, [%rd472+-1024];
	ld.v2.u64 	{%rd131, %rd132}, [%rd472+-512];
	ld.v2.u64 	{%rd133, %rd134}, [%rd472];
	ld.v2.u64 	{%rd135, %rd136}, [%rd472+512];
	setp.eq.s64 	%p7, %rd16, 0;
	@%p7 bra 	$L__BB0_9;
	st.v2.u64 	[%rd474+-1024], {%rd129, %rd130};
$L__BB0_9:
	ld.shared.v2.u64 	{%rd137, %rd138}, [%rd473+-1024];
	@%p7 bra 	$L__BB0_11;
	st.v2.u64 	[%rd474+-512], {%rd131, %rd132};
$L__BB0_11:
	add.s64 	%rd468, %rd473, -1024;
	ld.shared.v2.u64 	{%rd139, %rd140}, [%rd468+512];
	@%p7 bra 	$L__BB0_13;
	st.v2.u64 	[%rd474], {%rd133, %rd134};
$L__BB0_13:
	add.s64 	%rd457, %rd473, -1024;
	ld.shared.v2.u64 	{%rd141, %rd142}, [%rd457+1024];
	add.s64 	%rd145, %rd141, %rd133;
	shr.u64 	%rd146, %rd141, 32;
	shr.u64 	%rd147, %rd133, 32;
	add.s64 	%rd148, %rd146, %rd147;
	and.b64  	%rd149, %rd145, 4294967295;
	and.b64  	%rd150, %rd148, 4294967295;
	mul.lo.s64 	%rd151, %rd150, %rd149;
	add.s64 	%rd152, %rd142, %rd134;
	shr.u64 	%rd153, %rd142, 32;
	shr.u64 	%rd154, %rd134, 32;
	add.s64 	%rd155, %rd153, %rd154;
	and.b64  	%rd156, %rd152, 4294967295;
	and.b64  	%rd157, %rd155, 4294967295;
	mul.lo.s64 	%rd158, %rd157, %rd156;
	add.s64 	%rd159, %rd138, %rd130;
	and.b64  	%rd160, %rd159, 4294967295;
	shr.u64 	%rd161, %rd138, 32;
	shr.u64 	%rd162, %rd130, 32;
	add.s64 	%rd163, %rd161, %rd162;
	and.b64  	%rd164, %rd163, 4294967295;
	mul.lo.s64 	%rd165, %rd164, %rd160;
	add.s64 	%rd166, %rd137, %rd129;
	and.b64  	%rd167, %rd166, 4294967295;
	shr.u64 	%rd168, %rd137, 32;
	shr.u64 	%rd169, %rd129, 32;
	add.s64 	%rd170, %rd168, %rd169;
	and.b64  	%rd171, %rd170, 4294967295;
	mul.lo.s64 	%rd172, %rd171, %rd167;
	add.s64 	%rd173, %rd129, %rd482;
	add.s64 	%rd174, %rd173, %rd130;
	add.s64 	%rd175, %rd174, %rd172;
	add.s64 	%rd176, %rd175, %rd165;
	add.s64 	%rd177, %rd131, %rd176;
	add.s64 	%rd178, %rd177, %rd132;
	shr.u64 	%rd179, %rd131, 32;
	shr.u64 	%rd180, %rd139, 32;
	add.s64 	%rd181, %rd180, %rd179;
	and.b64  	%rd182, %rd181, 4294967295;
	add.s64 	%rd183, %rd139, %rd131;
	and.b64  	%rd184, %rd183, 4294967295;
	mul.lo.s64 	%rd185, %rd182, %rd184;
	add.s64 	%rd186, %rd178, %rd185;
	shr.u64 	%rd187, %rd132, 32;
	shr.u64 	%rd188, %rd140, 32;
	add.s64 	%rd189, %rd188, %rd187;
	and.b64  	%rd190, %rd189, 4294967295;
	add.s64 	%rd191, %rd140, %rd132;
	and.b64  	%rd192, %rd191, 4294967295;
	mul.lo.s64 	%rd193, %rd190, %rd192;
	add.s64 	%rd194, %rd186, %rd193;
	add.s64 	%rd195, %rd133, %rd194;
	add.s64 	%rd196, %rd195, %rd134;
	add.s64 	%rd197, %rd196, %rd151;
	add.s64 	%rd39, %rd197, %rd158;
	@%p7 bra 	$L__BB0_15;
	st.v2.u64 	[%rd474+512], {%rd135, %rd136};
$L__BB0_15:
	add.s64 	%rd458, %rd473, -1024;
	ld.shared.v2.u64 	{%rd198, %rd199}, [%rd458+1536];
	add.s64 	%rd202, %rd198, %rd135;
	shr.u64 	%rd203, %rd198, 32;
	shr.u64 	%rd204, %rd135, 32;
	add.s64 	%rd205, %rd203, %rd204;
	and.b64  	%rd206, %rd202, 4294967295;
	and.b64  	%rd207, %rd205, 4294967295;
	mul.lo.s64 	%rd208, %rd207, %rd206;
	add.s64 	%rd209, %rd199, %rd136;
	shr.u64 	%rd210, %rd199, 32;
	shr.u64 	%rd211, %rd136, 32;
	add.s64 	%rd212, %rd210, %rd211;
	and.b64  	%rd213, %rd209, 4294967295;
	and.b64  	%rd214, %rd212, 4294967295;
	mul.lo.s64 	%rd215, %rd214, %rd213;
	add.s64 	%rd216, %rd135, %rd39;
	add.s64 	%rd217, %rd216, %rd136;
	add.s64 	%rd218, %rd217, %rd208;
	add.s64 	%rd482, %rd218, %rd215;
	add.s64 	%rd474, %rd474, 2048;
	add.s64 	%rd473, %rd473, 2048;
	add.s64 	%rd472, %rd472, 2048;
	add.s32 	%r75, %r75, 128;
	setp.lt.u32 	%p11, %r75, %r7;
	@%p11 bra 	$L__BB0_7;
	add.s32 	%r76, %r75, -96;
$L__BB0_17:
	add.s64 	%rd45, %rd2, %rd469;
	setp.ge.u32 	%p12, %r76, %r7;
	@%p12 bra 	$L__BB0_39;
	not.b32 	%r28, %r76;
	add.s32 	%r12, %r7, %r28;
	shr.u32 	%r29, %r12, 5;
	add.s32 	%r30, %r29, 1;
	and.b32  	%r13, %r30, 3;
	setp.eq.s32 	%p13, %r13, 0;
	mov.u32 	%r77, %r76;
	@%p13 bra 	$L__BB0_28;
	setp.eq.s64 	%p14, %rd16, 0;
	cvt.u64.u32 	%rd46, %r76;
	mul.wide.u32 	%rd220, %r76, 16;
	add.s64 	%rd47, %rd45, %rd220;
	ld.v2.u64 	{%rd221, %rd222}, [%rd47];
	add.s64 	%rd50, %rd16, %rd220;
	@%p14 bra 	$L__BB0_21;
	st.v2.u64 	[%rd50], {%rd221, %rd222};
$L__BB0_21:
	shl.b64 	%rd223, %rd46, 4;
	add.s64 	%rd51, %rd122, %rd223;
	ld.shared.v2.u64 	{%rd225, %rd226}, [%rd51];
	add.s64 	%rd229, %rd225, %rd221;
	shr.u64 	%rd230, %rd225, 32;
	shr.u64 	%rd231, %rd221, 32;
	add.s64 	%rd232, %rd230, %rd231;
	and.b64  	%rd233, %rd229, 4294967295;
	and.b64  	%rd234, %rd232, 4294967295;
	mul.lo.s64 	%rd235, %rd234, %rd233;
	add.s64 	%rd236, %rd226, %rd222;
	shr.u64 	%rd237, %rd226, 32;
	shr.u64 	%rd238, %rd222, 32;
	add.s64 	%rd239, %rd237, %rd238;
	and.b64  	%rd240, %rd236, 4294967295;
	and.b64  	%rd241, %rd239, 4294967295;
	mul.lo.s64 	%rd242, %rd241, %rd240;
	add.s64 	%rd243, %rd221, %rd482;
	add.s64 	%rd244, %rd243, %rd222;
	add.s64 	%rd245, %rd244, %rd235;
	add.s64 	%rd482, %rd245, %rd242;
	add.s32 	%r77, %r76, 32;
	setp.eq.s32 	%p15, %r13, 1;
	@%p15 bra 	$L__BB0_28;
	ld.v2.u64 	{%rd246, %rd247}, [%rd47+512];
	@%p14 bra 	$L__BB0_24;
	st.v2.u64 	[%rd50+512], {%rd246, %rd247};
$L__BB0_24:
	ld.shared.v2.u64 	{%rd248, %rd249}, [%rd51+512];
	add.s64 	%rd252, %rd248, %rd246;
	shr.u64 	%rd253, %rd248, 32;
	shr.u64 	%rd254, %rd246, 32;
	add.s64 	%rd255, %rd253, %rd254;
	and.b64  	%rd256, %rd252, 4294967295;
	and.b64  	%rd257, %rd255, 4294967295;
	mul.lo.s64 	%rd258, %rd257, %rd256;
	add.s64 	%rd259, %rd249, %rd247;
	shr.u64 	%rd260, %rd249, 32;
	shr.u64 	%rd261, %rd247, 32;
	add.s64 	%rd262, %rd260, %rd261;
	and.b64  	%rd263, %rd259, 4294967295;
	and.b64  	%rd264, %rd262, 4294967295;
	mul.lo.s64 	%rd265, %rd264, %rd263;
	add.s64 	%rd266, %rd246, %rd482;
	add.s64 	%rd267, %rd266, %rd247;
	add.s64 	%rd268, %rd267, %rd258;
	add.s64 	%rd482, %rd268, %rd265;
	add.s32 	%r77, %r76, 64;
	setp.eq.s32 	%p17, %r13, 2;
	@%p17 bra 	$L__BB0_28;
	ld.v2.u64 	{%rd269, %rd270}, [%rd47+1024];
	@%p14 bra 	$L__BB0_27;
	st.v2.u64 	[%rd50+1024], {%rd269, %rd270};
$L__BB0_27:
	ld.shared.v2.u64 	{%rd271, %rd272}, [%rd51+1024];
	add.s64 	%rd275, %rd271, %rd269;
	shr.u64 	%rd276, %rd271, 32;
	shr.u64 	%rd277, %rd269, 32;
	add.s64 	%rd278, %rd276, %rd277;
	and.b64  	%rd279, %rd275, 4294967295;
	and.b64  	%rd280, %rd278, 4294967295;
	mul.lo.s64 	%rd281, %rd280, %rd279;
	add.s64 	%rd282, %rd272, %rd270;
	shr.u64 	%rd283, %rd272, 32;
	shr.u64 	%rd284, %rd270, 32;
	add.s64 	%rd285, %rd283, %rd284;
	and.b64  	%rd286, %rd282, 4294967295;
	and.b64  	%rd287, %rd285, 4294967295;
	mul.lo.s64 	%rd288, %rd287, %rd286;
	add.s64 	%rd289, %rd269, %rd482;
	add.s64 	%rd290, %rd289, %rd270;
	add.s64 	%rd291, %rd290, %rd281;
	add.s64 	%rd482, %rd291, %rd288;
	add.s32 	%r77, %r76, 96;
$L__BB0_28:
	setp.lt.u32 	%p19, %r12, 96;
	@%p19 bra 	$L__BB0_39;
	mul.wide.u32 	%rd292, %r77, 2;
	shl.b64 	%rd293, %rd292, 3;
	add.s64 	%rd480, %rd122, %rd293;
	mul.wide.u32 	%rd295, %r77, 16;
	add.s64 	%rd296, %rd469, %rd295;
	add.s64 	%rd481, %rd2, %rd296;
$L__BB0_30:
	ld.v2.u64 	{%rd297, %rd298}, [%rd481];
	cvt.u64.u32 	%rd68, %r77;
	mul.wide.u32 	%rd299, %r77, 16;
	add.s64 	%rd69, %rd16, %rd299;
	setp.eq.s64 	%p20, %rd16, 0;
	@%p20 bra 	$L__BB0_32;
	st.v2.u64 	[%rd69], {%rd297, %rd298};
$L__BB0_32:
	ld.shared.v2.u64 	{%rd300, %rd301}, [%rd480];
	add.s64 	%rd304, %rd300, %rd297;
	shr.u64 	%rd305, %rd300, 32;
	shr.u64 	%rd306, %rd297, 32;
	add.s64 	%rd307, %rd305, %rd306;
	and.b64  	%rd308, %rd304, 4294967295;
	and.b64  	%rd309, %rd307, 4294967295;
	mul.lo.s64 	%rd310, %rd309, %rd308;
	add.s64 	%rd311, %rd301, %rd298;
	shr.u64 	%rd312, %rd301, 32;
	shr.u64 	%rd313, %rd298, 32;
	add.s64 	%rd314, %rd312, %rd313;
	and.b64  	%rd315, %rd311, 4294967295;
	and.b64  	%rd316, %rd314, 4294967295;
	mul.lo.s64 	%rd317, %rd316, %rd315;
	add.s64 	%rd318, %rd297, %rd482;
	add.s64 	%rd319, %rd318, %rd298;
	add.s64 	%rd320, %rd319, %rd310;
	add.s64 	%rd70, %rd320, %rd317;
	ld.v2.u64 	{%rd321, %rd322}, [%rd481+512];
	@%p20 bra 	$L__BB0_34;
	st.v2.u64 	[%rd69+512], {%rd321, %rd322};
$L__BB0_34:
	ld.shared.v2.u64 	{%rd323, %rd324}, [%rd480+512];
	add.s64 	%rd327, %rd323, %rd321;
	shr.u64 	%rd328, %rd323, 32;
	shr.u64 	%rd329, %rd321, 32;
	add.s64 	%rd330, %rd328, %rd329;
	and.b64  	%rd331, %rd327, 4294967295;
	and.b64  	%rd332, %rd330, 4294967295;
	mul.lo.s64 	%rd333, %rd332, %rd331;
	add.s64 	%rd334, %rd324, %rd322;
	shr.u64 	%rd335, %rd324, 32;
	shr.u64 	%rd336, %rd322, 32;
	add.s64 	%rd337, %rd335, %rd336;
	and.b64  	%rd338, %rd334, 4294967295;
	and.b64  	%rd339, %rd337, 4294967295;
	mul.lo.s64 	%rd340, %rd339, %rd338;
	add.s64 	%rd341, %rd321, %rd70;
	add.s64 	%rd342, %rd341, %rd322;
	add.s64 	%rd343, %rd342, %rd333;
	add.s64 	%rd73, %rd343, %rd340;
	ld.v2.u64 	{%rd344, %rd345}, [%rd481+1024];
	@%p20 bra 	$L__BB0_36;
	st.v2.u64 	[%rd69+1024], {%rd344, %rd345};
$L__BB0_36:
	ld.shared.v2.u64 	{%rd346, %rd347}, [%rd480+1024];
	add.s64 	%rd350, %rd346, %rd344;
	shr.u64 	%rd351, %rd346, 32;
	shr.u64 	%rd352, %rd344, 32;
	add.s64 	%rd353, %rd351, %rd352;
	and.b64  	%rd354, %rd350, 4294967295;
	and.b64  	%rd355, %rd353, 4294967295;
	mul.lo.s64 	%rd356, %rd355, %rd354;
	add.s64 	%rd357, %rd347, %rd345;
	shr.u64 	%rd358, %rd347, 32;
	shr.u64 	%rd359, %rd345, 32;
	add.s64 	%rd360, %rd358, %rd359;
	and.b64  	%rd361, %rd357, 4294967295;
	and.b64  	%rd362, %rd360, 4294967295;
	mul.lo.s64 	%rd363, %rd362, %rd361;
	add.s64 	%rd364, %rd344, %rd73;
	add.s64 	%rd365, %rd364, %rd345;
	add.s64 	%rd366, %rd365, %rd356;
	add.s64 	%rd76, %rd366, %rd363;
	ld.v2.u64 	{%rd367, %rd368}, [%rd481+1536];
	@%p20 bra 	$L__BB0_38;
	st.v2.u64 	[%rd69+1536], {%rd367, %rd368};
$L__BB0_38:
	cvt.u32.u64 	%r31, %rd68;
	add.s64 	%rd79, %rd480, 2048;
	ld.shared.v2.u64 	{%rd369, %rd370}, [%rd480+1536];
	add.s64 	%rd373, %rd369, %rd367;
	shr.u64 	%rd374, %rd369, 32;
	shr.u64 	%rd375, %rd367, 32;
	add.s64 	%rd376, %rd374, %rd375;
	and.b64  	%rd377, %rd373, 4294967295;
	and.b64  	%rd378, %rd376, 4294967295;
	mul.lo.s64 	%rd379, %rd378, %rd377;
	add.s64 	%rd380, %rd370, %rd368;
	shr.u64 	%rd381, %rd370, 32;
	shr.u64 	%rd382, %rd368, 32;
	add.s64 	%rd383, %rd381, %rd382;
	and.b64  	%rd384, %rd380, 4294967295;
	and.b64  	%rd385, %rd383, 4294967295;
	mul.lo.s64 	%rd386, %rd385, %rd384;
	add.s64 	%rd387, %rd367, %rd76;
	add.s64 	%rd388, %rd387, %rd368;
	add.s64 	%rd389, %rd388, %rd379;
	add.s64 	%rd482, %rd389, %rd386;
	add.s32 	%r77, %r31, 128;
	setp.lt.u32 	%p24, %r77, %r7;
	add.s64 	%rd481, %rd481, 2048;
	mov.u64 	%rd480, %rd79;
	@%p24 bra 	$L__BB0_30;
$L__BB0_39:
	sub.s64 	%rd460, %rd6, %rd469;
	min.u64 	%rd459, %rd460, 8192;
	shl.b32 	%r32, %r7, 1;
	add.s32 	%r79, %r32, %r4;
	shl.b32 	%r33, %r79, 3;
	cvt.u64.u32 	%rd391, %r33;
	setp.le.u64 	%p25, %rd459, %rd391;
	mov.u64 	%rd488, 0;
	@%p25 bra 	$L__BB0_47;
	cvt.u64.u32 	%rd483, %r79;
$L__BB0_41:
	sub.s64 	%rd463, %rd6, %rd469;
	min.u64 	%rd462, %rd463, 8192;
	cvt.u32.u64 	%r72, %rd462;
	shl.b32 	%r34, %r79, 3;
	setp.ge.u32 	%p26, %r34, %r72;
	cvt.u64.u32 	%rd485, %r34;
	add.s32 	%r35, %r79, 1;
	mul.wide.u32 	%rd87, %r35, 8;
	setp.le.u64 	%p27, %rd87, %rd485;
	mov.u64 	%rd487, 0;
	or.pred  	%p28, %p26, %p27;
	@%p28 bra 	$L__BB0_46;
$L__BB0_43:
	add.s64 	%rd395, %rd45, %rd485;
	ld.u8 	%rs1, [%rd395];
	setp.eq.s64 	%p29, %rd16, 0;
	@%p29 bra 	$L__BB0_45;
	add.s64 	%rd396, %rd16, %rd485;
	st.u8 	[%rd396], %rs1;
$L__BB0_45:
	sub.s64 	%rd467, %rd6, %rd469;
	min.u64 	%rd466, %rd467, 8192;
	cvt.u32.u64 	%r73, %rd466;
	cvt.u32.u64 	%r36, %rd485;
	shl.b32 	%r37, %r36, 3;
	and.b32  	%r38, %r37, 56;
	cvt.u64.u16 	%rd397, %rs1;
	and.b64  	%rd398, %rd397, 255;
	shl.b64 	%rd399, %rd398, %r38;
	or.b64  	%rd487, %rd399, %rd487;
	add.s32 	%r39, %r36, 1;
	setp.lt.u32 	%p30, %r39, %r73;
	cvt.u64.u32 	%rd485, %r39;
	setp.gt.u64 	%p31, %rd87, %rd485;
	and.pred  	%p32, %p30, %p31;
	@%p32 bra 	$L__BB0_43;
$L__BB0_46:
	sub.s64 	%rd465, %rd6, %rd469;
	min.u64 	%rd464, %rd465, 8192;
	shl.b64 	%rd400, %rd483, 3;
	add.s64 	%rd402, %rd122, %rd400;
	ld.shared.u64 	%rd403, [%rd402];
	add.s64 	%rd404, %rd403, %rd487;
	shr.u64 	%rd405, %rd403, 32;
	shr.u64 	%rd406, %rd487, 32;
	add.s64 	%rd407, %rd405, %rd406;
	and.b64  	%rd408, %rd404, 4294967295;
	and.b64  	%rd409, %rd407, 4294967295;
	mul.lo.s64 	%rd410, %rd409, %rd408;
	add.s64 	%rd411, %rd487, %rd488;
	add.s64 	%rd488, %rd411, %rd410;
	add.s32 	%r79, %r79, 32;
	cvt.u64.u32 	%rd483, %r79;
	mul.wide.u32 	%rd412, %r79, 8;
	setp.lt.u64 	%p33, %rd412, %rd464;
	@%p33 bra 	$L__BB0_41;
$L__BB0_47:
	add.s64 	%rd413, %rd488, %rd482;
	// begin inline asm
	mov.b64 {%r40,%r41}, %rd413;
	// end inline asm
	mov.u32 	%r60, 31;
	mov.u32 	%r61, 16;
	mov.u32 	%r62, -1;
	shfl.sync.bfly.b32 	%r43|%p34, %r41, %r61, %r60, %r62;
	shfl.sync.bfly.b32 	%r42|%p35, %r40, %r61, %r60, %r62;
	// begin inline asm
	mov.b64 %rd414, {%r42,%r43};
	// end inline asm
	add.s64 	%rd415, %rd414, %rd413;
	// begin inline asm
	mov.b64 {%r44,%r45}, %rd415;
	// end inline asm
	mov.u32 	%r63, 8;
	shfl.sync.bfly.b32 	%r47|%p36, %r45, %r63, %r60, %r62;
	shfl.sync.bfly.b32 	%r46|%p37, %r44, %r63, %r60, %r62;
	// begin inline asm
	mov.b64 %rd416, {%r46,%r47};
	// end inline asm
	add.s64 	%rd417, %rd416, %rd415;
	// begin inline asm
	mov.b64 {%r48,%r49}, %rd417;
	// end inline asm
	mov.u32 	%r64, 4;
	shfl.sync.bfly.b32 	%r51|%p38, %r49, %r64, %r60, %r62;
	shfl.sync.bfly.b32 	%r50|%p39, %r48, %r64, %r60, %r62;
	// begin inline asm
	mov.b64 %rd418, {%r50,%r51};
	// end inline asm
	add.s64 	%rd419, %rd418, %rd417;
	// begin inline asm
	mov.b64 {%r52,%r53}, %rd419;
	// end inline asm
	mov.u32 	%r65, 2;
	shfl.sync.bfly.b32 	%r55|%p40, %r53, %r65, %r60, %r62;
	shfl.sync.bfly.b32 	%r54|%p41, %r52, %r65, %r60, %r62;
	// begin inline asm
	mov.b64 %rd420, {%r54,%r55};
	// end inline asm
	add.s64 	%rd421, %rd420, %rd419;
	// begin inline asm
	mov.b64 {%r56,%r57}, %rd421;
	// end inline asm
	mov.u32 	%r66, 1;
	shfl.sync.bfly.b32 	%r59|%p42, %r57, %r66, %r60, %r62;
	shfl.sync.bfly.b32 	%r58|%p43, %r56, %r66, %r60, %r62;
	// begin inline asm
	mov.b64 %rd422, {%r58,%r59};
	// end inline asm
	add.s64 	%rd423, %rd422, %rd421;
	add.s64 	%rd424, %rd470, %rd7;
	mul.lo.s64 	%rd425, %rd424, -7046029254386353131;
	add.s64 	%rd426, %rd425, %rd423;
	add.s64 	%rd427, %rd426, -7046029254386353131;
	shr.u64 	%rd428, %rd427, 30;
	xor.b64  	%rd429, %rd428, %rd427;
	mul.lo.s64 	%rd430, %rd429, -4658895280553007687;
	shr.u64 	%rd431, %rd430, 27;
	xor.b64  	%rd432, %rd431, %rd430;
	mul.lo.s64 	%rd433, %rd432, -7723592293110705685;
	shr.u64 	%rd434, %rd433, 31;
	xor.b64  	%rd435, %rd434, %rd433;
	add.s64 	%rd489, %rd435, %rd489;
	add.s64 	%rd470, %rd470, 8;
	shl.b64 	%rd469, %rd470, 13;
	setp.gt.u64 	%p44, %rd6, %rd469;
	@%p44 bra 	$L__BB0_5;
$L__BB0_48:
	setp.ne.s32 	%p45, %r4, 0;
	@%p45 bra 	$L__BB0_50;
	mov.u32 	%r67, %tid.x;
	shr.u32 	%r68, %r67, 5;
	mul.wide.u32 	%rd436, %r68, 8;
	mov.u64 	%rd437, _ZZ18yrfl_digest_piecesE6sum_of;
	add.s64 	%rd438, %rd437, %rd436;
	st.shared.u64 	[%rd438], %rd489;
$L__BB0_50:
	bar.sync 	0;
	mov.u32 	%r69, %tid.x;
	setp.ne.s32 	%p46, %r69, 0;
	@%p46 bra 	$L__BB0_52;
	mov.u32 	%r71, %ctaid.x;
	ld.param.u64 	%rd461, [yrfl_digest_pieces_param_1];
	ld.shared.u64 	%rd439, [_ZZ18yrfl_digest_piecesE6sum_of];
	ld.shared.u64 	%rd440, [_ZZ18yrfl_digest_piecesE6sum_of+8];
	add.s64 	%rd441, %rd440, %rd439;
	ld.shared.u64 	%rd442, [_ZZ18yrfl_digest_piecesE6sum_of+16];
	add.s64 	%rd443, %rd442, %rd441;
	ld.shared.u64 	%rd444, [_ZZ18yrfl_digest_piecesE6sum_of+24];
	add.s64 	%rd445, %rd444, %rd443;
	ld.shared.u64 	%rd446, [_ZZ18yrfl_digest_piecesE6sum_of+32];
	add.s64 	%rd447, %rd446, %rd445;
	ld.shared.u64 	%rd448, [_ZZ18yrfl_digest_piecesE6sum_of+40];
	add.s64 	%rd449, %rd448, %rd447;
	ld.shared.u64 	%rd450, [_ZZ18yrfl_digest_piecesE6sum_of+48];
	add.s64 	%rd451, %rd450, %rd449;
	ld.shared.u64 	%rd452, [_ZZ18yrfl_digest_piecesE6sum_of+56];
	add.s64 	%rd453, %rd452, %rd451;
	cvta.to.global.u64 	%rd454, %rd461;
	mul.wide.u32 	%rd455, %r71, 8;
	add.s64 	%rd456, %rd454, %rd455;
	st.global.u64 	[%rd456], %rd453;
$L__BB0_52:
	ret;
}
)ptx";
// clang-format on

}  // namespace yr_fastload::cuda
