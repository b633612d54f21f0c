-- job_submit.lua for clusters on which only some nodes run VMs: sends jobs with --vm-image to nodes
-- with the feature 'spank-vm' and no others. It also keeps RequeueExit to batch jobs: Slurm requeues
-- an srun that ended with such a code too, and then starts a job for which nobody waits any more. (Slurm
-- 22.05 does so whatever this script says; such a job ends by itself after some seconds.)
--
--     JobSubmitPlugins=lua                        (slurm.conf; this file is /etc/slurm/job_submit.lua)
--     NodeName=n[01-40] Features=spank-vm …       (the nodes that have the plugin)
--
-- A job that asks for a VM is refused at submission if no node has the feature. The image of a job is in its
-- AdminComment, which 'scontrol show job' and 'sacct -o jobid,admincomment' show. If your site
-- already has a job_submit.lua, copy the functions and the lines that use them into it.

-- nil if all nodes run VMs.
local FEATURE = "spank-vm"
-- Partitions in which jobs get no VMs: { gpu = true, login = true }
local WITHOUT_VMS = {}

local OPTION = "_SLURM_SPANK_OPTION_spank_vm_vm_image="

-- The image that a job asks for, or nil. The options of plugins travel with a job as "NAME=value".
local function image_of(job_desc)
    local env = job_desc.spank_job_env
    for i = 0, (job_desc.spank_job_env_size or 0) - 1 do
        local entry = env[i] or ""
        if entry:sub(1, #OPTION) == OPTION then
            local image = entry:sub(#OPTION + 1)
            return image ~= "none" and image or nil
        end
    end
    return nil
end

-- The first of the job's partitions in which there are no VMs, or nil. A job that names no partition goes to the default one.
local function partition_without_vms(job_desc, part_list)
    local asked = job_desc.partition
    if not asked or asked == "" then
        for name, part in pairs(part_list) do
            if part.flag_default == 1 then
                asked = name
            end
        end
    end
    for name in (asked or ""):gmatch("[^,]+") do
        if WITHOUT_VMS[name] then
            return name
        end
    end
    return nil
end

-- srun's and salloc's jobs have no script.
local function is_interactive(job_desc)
    return (job_desc.script or "") == ""
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    local image = image_of(job_desc)
    if image then
        local partition = partition_without_vms(job_desc, part_list)
        if partition then
            slurm.log_user("vm: there are no VMs in partition '" .. partition .. "': choose another one with --partition")
            return slurm.ERROR
        end
        local asked = job_desc.features
        if FEATURE then
            job_desc.features = (asked and asked ~= "") and ("(" .. asked .. ")&" .. FEATURE) or FEATURE
        end
        if (job_desc.admin_comment or "") == "" then
            job_desc.admin_comment = "vm-image=" .. image
        end
    end
    if is_interactive(job_desc) then
        job_desc.requeue = 0
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
