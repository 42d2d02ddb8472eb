-- The functions the tools call, one round trip each. All give one JSON document.
--
-- A function that writes takes `p_key`: the first outcome for a key is stored in the same transaction, and the same key
-- again gives that outcome and writes nothing, also when both arrive at once.
-- Locks are taken in one order (request, customer, calendar, rows), so that no two of them wait for each other.

create function customer_document(c customers) returns jsonb
language sql stable security invoker set search_path = public as $$
  select case when c.id is not null then
    jsonb_build_object('id', c.id, 'phone', c.phone, 'name', left(c.name, 200), 'locale', c.locale, 'status', c.status)
  end
$$;

create function appointment_document(a appointments) returns jsonb
language sql stable security invoker set search_path = public as $$
  select case when a.id is not null then
    jsonb_build_object('id', a.id, 'starts_at', a.starts_at, 'ends_at', a.ends_at, 'status', a.status,
                       'notes', left(a.notes, 500), 'calendar', a.calendar)
  end
$$;

-- Whose number it is, for what writes something of theirs: while it does they cannot be forgotten.
create function hold_customer(p_phone text) returns bigint
language sql volatile security invoker set search_path = public as $$
  select id from customers where phone_key(phone) = phone_key(p_phone) for key share
$$;

create function upcoming_appointments(p_customer bigint, p_limit integer, p_calendar text default null) returns jsonb
language sql stable security invoker set search_path = public as $$
  select coalesce(jsonb_agg(appointment_document(a) order by a.starts_at, a.id), '[]'::jsonb)
  from (select id from appointments
        where customer_id = p_customer and status = 'booked' and starts_at > now()
          and (p_calendar is null or calendar = p_calendar)
        order by starts_at, id limit p_limit) coming
  join appointments a on a.id = coming.id
$$;

-- One document in one round trip; null when nobody has this number. It goes into a prompt, and what is over 32 kB is not
-- used at all: of very many facts the newest are given.
create or replace function customer_context(p_phone text) returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object(
    'customer', customer_document(c),
    'facts', coalesce(
      (select jsonb_object_agg(f.key, f.value)
       from (select key, value,
               sum(octet_length(key) + octet_length(value::text)) over (order by updated_at desc, id desc) as bytes
             from customer_facts where customer_id = c.id) f
       where f.bytes <= 16000), '{}'::jsonb),
    'next', upcoming_appointments(c.id, 3))
  from customers c
  where phone_key(c.phone) = phone_key(p_phone)
$$;

-- Claim a key: null when it is new, else what came of it. A second one at the same time waits here for the first.
create function begin_request(p_function text, p_key text, p_phone text) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  stored jsonb;
begin
  insert into tool_requests (function, key, phone) values (p_function, p_key, phone_key(p_phone)) on conflict do nothing;
  if found then
    return null;
  end if;
  select outcome into strict stored from tool_requests where function = p_function and key = p_key;
  return stored;
end
$$;

create function finish_request(p_function text, p_key text, p_outcome jsonb) returns jsonb
language sql volatile security invoker set search_path = public as $$
  update tool_requests set outcome = p_outcome where function = p_function and key = p_key returning outcome
$$;

-- Whoever books in a calendar waits for the others who do: two inserts at once into an exclusion constraint could wait for
-- each other, and one of them would fail with a deadlock instead of being told that the slot is taken.
create function lock_calendar(p_calendar text) returns void
language sql volatile security invoker set search_path = public as $$
  select pg_advisory_xact_lock(hashtextextended('calendar ' || p_calendar, 0))
$$;

-- --- customers ---------------------------------------------------------------------------------------------------------

-- Who exists keeps what is known; only a name that nobody knew yet is filled in.
create function create_customer(p_key text, p_phone text, p_name text default null, p_locale text default null) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('create_customer', p_key, p_phone);
  called text := nullif(left(btrim(p_name), 200), '');
  made boolean;
  c customers;
begin
  if done is not null then
    return done;
  end if;
  insert into customers (phone, name, locale, request_key)
    values (p_phone, called, coalesce(nullif(btrim(p_locale), ''), 'en'), p_key)
    on conflict do nothing returning * into c;
  made := found;
  if not made then
    update customers set name = called, updated_at = now()
      where phone_key(phone) = phone_key(p_phone) and name is null and called is not null;
    select * into c from customers where phone_key(phone) = phone_key(p_phone);
  end if;
  return finish_request('create_customer', p_key, jsonb_build_object(
    'outcome', case when made then 'created' else 'exists' end, 'customer', customer_document(c)));
end
$$;

create function update_customer_status(p_key text, p_phone text, p_status text) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('update_customer_status', p_key, p_phone);
  c customers;
begin
  if done is not null then
    return done;
  end if;
  update customers set status = p_status, request_key = p_key, updated_at = now()
    where phone_key(phone) = phone_key(p_phone) returning * into c;
  return finish_request('update_customer_status', p_key, jsonb_build_object(
    'outcome', case when found then 'updated' else 'unknown_customer' end, 'customer', customer_document(c)));
end
$$;

create function add_customer_fact(p_key text, p_phone text, p_fact text, p_value jsonb, p_source text default null) returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('add_customer_fact', p_key, p_phone);
begin
  if done is not null then
    return done;
  end if;
  insert into customer_facts (customer_id, key, value, source, request_key)
    select held, p_fact, coalesce(p_value, 'null'::jsonb), p_source, p_key
    from hold_customer(p_phone) held where held is not null
    on conflict (customer_id, key) do update
      set value = excluded.value, source = excluded.source, request_key = excluded.request_key, updated_at = now();
  return finish_request('add_customer_fact', p_key, jsonb_build_object(
    'outcome', case when found then 'stored' else 'unknown_customer' end));
end
$$;

-- --- appointments ------------------------------------------------------------------------------------------------------

create function busy_between(p_calendar text, p_from timestamptz, p_to timestamptz) returns jsonb
language sql stable security invoker set search_path = public as $$
  select coalesce(
    jsonb_agg(jsonb_build_object('starts_at', starts_at, 'ends_at', ends_at) order by starts_at), '[]'::jsonb)
  from appointments
  where calendar = p_calendar and status = 'booked' and starts_at < p_to and ends_at > p_from
$$;

create function book_appointment(
  p_key text, p_phone text, p_calendar text, p_starts_at timestamptz, p_ends_at timestamptz, p_notes text default null)
returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('book_appointment', p_key, p_phone);
  who bigint;
  said text := 'booked';
  a appointments;
begin
  if done is not null then
    return done;
  end if;
  who := hold_customer(p_phone);
  if who is null then
    return finish_request('book_appointment', p_key, '{"outcome": "unknown_customer", "appointment": null}'::jsonb);
  end if;
  perform lock_calendar(p_calendar);
  select * into a from appointments
    where customer_id = who and calendar = p_calendar and status = 'booked'
      and starts_at = p_starts_at and ends_at = p_ends_at;
  if found then
    said := 'already_booked';
  else
    begin
      insert into appointments (customer_id, calendar, starts_at, ends_at, notes, request_key)
        values (who, p_calendar, p_starts_at, p_ends_at, left(p_notes, 2000), p_key) returning * into a;
    exception when exclusion_violation then
      said := 'taken';
      a := null;
    end;
  end if;
  return finish_request('book_appointment', p_key,
    jsonb_build_object('outcome', said, 'appointment', appointment_document(a)));
end
$$;

-- Which appointments a customer may mean: that one, those that start then (a booked one rather than a cancelled one), or
-- all that are coming. Only those of one calendar, unless it is null.
create function appointments_meant(p_customer bigint, p_id bigint, p_starts_at timestamptz, p_calendar text)
returns setof appointments
language sql stable security invoker set search_path = public as $$
  select a.* from appointments a
  where a.customer_id = p_customer and (p_calendar is null or a.calendar = p_calendar) and case
    when p_id is not null then a.id = p_id
    when p_starts_at is not null then a.starts_at = p_starts_at and (a.status = 'booked' or not exists (
      select from appointments b where b.customer_id = p_customer and (p_calendar is null or b.calendar = p_calendar)
        and b.starts_at = p_starts_at and b.status = 'booked'))
    else a.status = 'booked' and a.starts_at > now()
  end
  order by a.starts_at, a.id
$$;

-- What is said when it is not one appointment, or one that is over: the outcome, and those that are coming to choose from.
create function not_one_appointment(p_customer bigint, p_outcome text, p_calendar text, a appointments default null)
returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object('outcome', p_outcome, 'appointment', appointment_document(a),
    'appointments', upcoming_appointments(p_customer, 10, p_calendar))
$$;

create function one_appointment(p_outcome text, a appointments) returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object('outcome', p_outcome, 'appointment', appointment_document(a), 'appointments', '[]'::jsonb)
$$;

-- What has begun stays as it was. Without a calendar it may be an appointment of any.
create function cancel_appointment(
  p_key text, p_phone text, p_id bigint default null, p_starts_at timestamptz default null, p_calendar text default null)
returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('cancel_appointment', p_key, p_phone);
  who bigint;
  meant bigint[];
  a appointments;
begin
  if done is not null then
    return done;
  end if;
  who := hold_customer(p_phone);
  select coalesce(array_agg(m.id), '{}') into meant
    from appointments_meant(who, p_id, p_starts_at, p_calendar) m;
  update appointments set status = 'cancelled', changed_by = p_key, updated_at = now()
    where cardinality(meant) = 1 and id = meant[1] and status = 'booked' and starts_at > now() returning * into a;
  if found then
    return finish_request('cancel_appointment', p_key, one_appointment('cancelled', a));
  end if;
  select * into a from appointments where cardinality(meant) > 0 and id = meant[1];
  return finish_request('cancel_appointment', p_key, case
    when who is null then not_one_appointment(who, 'unknown_customer', p_calendar)
    when a.status = 'cancelled' then one_appointment('already_cancelled', a)
    when cardinality(meant) > 1 then not_one_appointment(who, 'ambiguous', p_calendar)
    when a.status = 'booked' and a.starts_at <= now() then not_one_appointment(who, 'over', p_calendar, a)
    else not_one_appointment(who, 'not_found', p_calendar)
  end);
end
$$;

-- Without a new end the appointment stays as long as it was. It holds as it is when the new time is taken, when it would
-- end after `p_closes_at` (null: at no time), and when it has begun. Without a calendar it may be an appointment of any.
create function reschedule_appointment(
  p_key text, p_phone text, p_id bigint, p_old_starts_at timestamptz, p_starts_at timestamptz,
  p_ends_at timestamptz default null, p_calendar text default null, p_closes_at timestamptz default null)
returns jsonb
language plpgsql security invoker set search_path = public as $$
declare
  done jsonb := begin_request('reschedule_appointment', p_key, p_phone);
  who bigint;
  meant bigint[];
  a appointments;
begin
  if done is not null then
    return done;
  end if;
  who := hold_customer(p_phone);
  select coalesce(array_agg(m.id), '{}') into meant
    from appointments_meant(who, p_id, p_old_starts_at, p_calendar) m where m.status = 'booked';
  if who is null or cardinality(meant) <> 1 then
    return finish_request('reschedule_appointment', p_key, not_one_appointment(who, case
      when who is null then 'unknown_customer'
      when cardinality(meant) > 1 then 'ambiguous'
      else 'not_found'
    end, p_calendar));
  end if;
  perform lock_calendar(calendar) from appointments where id = meant[1];
  begin
    update appointments
      set starts_at = p_starts_at, ends_at = coalesce(p_ends_at, p_starts_at + (ends_at - starts_at)),
        changed_by = p_key, updated_at = now()
      where id = meant[1] and status = 'booked' and starts_at > now()
        and (p_closes_at is null or coalesce(p_ends_at, p_starts_at + (ends_at - starts_at)) <= p_closes_at)
      returning * into a;
    if not found then
      select * into a from appointments where id = meant[1];
      return finish_request('reschedule_appointment', p_key, case
        when a.status = 'booked' and a.starts_at <= now() then not_one_appointment(who, 'over', p_calendar, a)
        when a.status = 'booked' then one_appointment('too_long', a)
        else not_one_appointment(who, 'not_found', p_calendar)
      end);
    end if;
  exception when exclusion_violation then
    select * into a from appointments where id = meant[1];
    return finish_request('reschedule_appointment', p_key, one_appointment('taken', a));
  end;
  return finish_request('reschedule_appointment', p_key, one_appointment('rescheduled', a));
end
$$;

revoke execute on function
  customer_document(customers), appointment_document(appointments), hold_customer(text),
  upcoming_appointments(bigint, integer, text), begin_request(text, text, text), finish_request(text, text, jsonb),
  lock_calendar(text), create_customer(text, text, text, text), update_customer_status(text, text, text),
  add_customer_fact(text, text, text, jsonb, text), busy_between(text, timestamptz, timestamptz),
  book_appointment(text, text, text, timestamptz, timestamptz, text),
  appointments_meant(bigint, bigint, timestamptz, text), not_one_appointment(bigint, text, text, appointments),
  one_appointment(text, appointments), cancel_appointment(text, text, bigint, timestamptz, text),
  reschedule_appointment(text, text, bigint, timestamptz, timestamptz, timestamptz, text, timestamptz)
  from public, anon, authenticated;
grant execute on function
  customer_document(customers), appointment_document(appointments), hold_customer(text),
  upcoming_appointments(bigint, integer, text), begin_request(text, text, text), finish_request(text, text, jsonb),
  lock_calendar(text), create_customer(text, text, text, text), update_customer_status(text, text, text),
  add_customer_fact(text, text, text, jsonb, text), busy_between(text, timestamptz, timestamptz),
  book_appointment(text, text, text, timestamptz, timestamptz, text),
  appointments_meant(bigint, bigint, timestamptz, text), not_one_appointment(bigint, text, text, appointments),
  one_appointment(text, appointments), cancel_appointment(text, text, bigint, timestamptz, text),
  reschedule_appointment(text, text, bigint, timestamptz, timestamptz, timestamptz, text, timestamptz)
  to service_role;
